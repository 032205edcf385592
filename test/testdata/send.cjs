// Send one message as it is with nodemailer.
'use strict';

const fs = require('node:fs');
const nodemailer = require('nodemailer');

const [mode, port, ca, user, pass, from, to, message] = process.argv.slice(2);
const transport = nodemailer.createTransport({
  host: 'localhost',
  port: Number(port),
  secure: mode === 'tls',
  requireTLS: true,
  auth: { user, pass },
  tls: { ca: fs.readFileSync(ca) },
});

transport
  .sendMail({ envelope: { from, to: [to] }, raw: fs.readFileSync(message) })
  .then((info) => process.exit(info.rejected.length === 0 ? 0 : 1))
  .catch((err) => {
    console.error(err);
    process.exit(1);
  });
