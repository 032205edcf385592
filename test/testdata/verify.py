"""Verify every DKIM signature of the message on standard input.

Prints the algorithm of each good one; fails at the first that is not.
"""

import re
import sys

import dkim

message = sys.stdin.buffer.read()
signatures = [v for k, v in dkim.rfc822_parse(message)[0] if k.lower() == b"dkim-signature"]
for i, signature in enumerate(signatures):
    algorithm = re.search(rb"\ba=([\w-]+)", signature).group(1).decode()
    try:
        good = dkim.DKIM(message).verify(idx=i)
    except dkim.DKIMException as reason:
        sys.exit(f"signature {i} ({algorithm}): {reason}")
    if not good:
        sys.exit(f"signature {i} ({algorithm}) does not verify")
    print(algorithm)
sys.exit(0 if signatures else "there is no signature")
