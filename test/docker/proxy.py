"""An HTTP proxy for builds in the network namespace of a private Docker Engine, which has no
route to anywhere.

    proxy.py PID PORT CACHE MODULES

It listens on PORT in the network namespace of the process PID, and fetches what apt-get asks
for from this machine's network. Packages are kept in the folder CACHE. Below /modules/ it is a
Go module proxy for the download cache MODULES of this machine.
"""

import ctypes
import hashlib
import http.server
import os
import shutil
import socketserver
import sys
import urllib.error
import urllib.parse
import urllib.request

CLONE_NEWNET = 0x40000000


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path.startswith("/modules/"):
            # Module paths are escaped as in the folders of the cache.
            name = os.path.normpath(urllib.parse.unquote(self.path[len("/modules/"):]))
            path = os.path.join(self.server.modules, name)
            if name.startswith("..") or not os.path.isfile(path):
                self.send_error(404)
                return
            self.send_file(path)
        elif self.path.startswith("http://"):
            self.fetch()
        else:
            self.send_error(400)

    def fetch(self):
        kept = os.path.join(self.server.cache, hashlib.sha256(self.path.encode()).hexdigest())
        package = self.path.endswith(".deb")
        if package and os.path.exists(kept):
            self.send_file(kept)
            return
        part = f"{kept}.{os.getpid()}.{id(self)}"
        try:
            with urllib.request.urlopen(self.path, timeout=60) as answer, open(part, "wb") as out:
                shutil.copyfileobj(answer, out)
            self.send_file(part)
            if package:
                os.rename(part, kept)
        except urllib.error.HTTPError as e:
            self.send_error(e.code)
        except OSError as e:
            self.send_error(502, str(e))
        finally:
            if os.path.exists(part):
                os.remove(part)

    def send_file(self, path):
        with open(path, "rb") as f:
            self.send_response(200)
            self.send_header("Content-Length", str(os.fstat(f.fileno()).st_size))
            self.end_headers()
            shutil.copyfileobj(f, self.wfile)

    def log_message(self, *args):
        pass


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True


def enter(path):
    libc = ctypes.CDLL(None, use_errno=True)
    with open(path) as f:
        if libc.setns(f.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")


def main():
    pid, port, cache, modules = sys.argv[1:]
    os.makedirs(cache, exist_ok=True)
    # A socket stays in the namespace in which it was made.
    with open("/proc/self/ns/net") as own:
        enter(f"/proc/{pid}/ns/net")
        server = Server(("0.0.0.0", int(port)), Handler)
        enter(f"/proc/self/fd/{own.fileno()}")
    server.cache, server.modules = cache, modules
    server.serve_forever()


main()
