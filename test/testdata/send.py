"""Send one message as it is with Python's smtplib."""

import smtplib
import ssl
import sys

mode, port, ca, user, password, sender, rcpt, message = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
if mode == "tls":
    smtp = smtplib.SMTP_SSL("localhost", int(port), context=context, timeout=60)
else:
    smtp = smtplib.SMTP("localhost", int(port), timeout=60)
    smtp.starttls(context=context)
smtp.login(user, password)
with open(message, "rb") as f:
    refused = smtp.sendmail(sender, [rcpt], f.read(), mail_options=["BODY=8BITMIME"])
smtp.quit()
sys.exit(1 if refused else 0)
