// Send one message to many recipients with nodemailer and print those that were refused.
'use strict';

const fs = require('node:fs');
const nodemailer = require('nodemailer');

const [mode, port, ca, user, pass, from, domain, count, message] = process.argv.slice(2);
const transport = nodemailer.createTransport({
  host: 'localhost',
  port: Number(port),
  secure: mode === 'tls',
  requireTLS: true,
  auth: { user, pass },
  tls: { ca: fs.readFileSync(ca) },
});
const to = Array.from({ length: Number(count) }, (_, n) => `r${n + 1}@${domain}`);

transport
  .sendMail({ envelope: { from, to }, raw: fs.readFileSync(message) })
  .then((info) => {
    for (const err of info.rejectedErrors || []) {
      console.log(err.responseCode, err.recipient);
    }
  })
  .catch((err) => {
    console.error(err);
    process.exit(1);
  });
