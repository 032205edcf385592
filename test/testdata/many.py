"""Send one message to many recipients with Python's smtplib and print those that were refused."""

import smtplib
import ssl
import sys

mode, port, ca, user, password, sender, domain, count, message = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
if mode == "tls":
    smtp = smtplib.SMTP_SSL("localhost", int(port), context=context, timeout=60)
else:
    smtp = smtplib.SMTP("localhost", int(port), timeout=60)
    smtp.starttls(context=context)
smtp.login(user, password)
recipients = [f"r{n}@{domain}" for n in range(1, int(count) + 1)]
with open(message, "rb") as f:
    refused = smtp.sendmail(sender, recipients, f.read())
smtp.quit()
for address, (code, _) in refused.items():
    print(code, address)
