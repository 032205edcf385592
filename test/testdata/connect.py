"""Connect with implicit TLS as Python's smtplib does, and print the code with which the server refuses the connection."""

import smtplib
import ssl
import sys

port, ca = sys.argv[1:]
try:
    smtplib.SMTP_SSL("localhost", int(port), context=ssl.create_default_context(cafile=ca), timeout=60)
except smtplib.SMTPConnectError as err:
    print(err.smtp_code, err.smtp_error.decode())
