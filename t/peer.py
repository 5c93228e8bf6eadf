"""Somebody outside, as outbound calls meet them: slow, silent, cut short, endless, in TLS, and one that takes mail."""

import contextlib
import datetime
import http.server
import ipaddress
import socket
import socketserver
import ssl
import threading

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status=200, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        peer, path = self.server.peer, self.path.split("?")[0]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with peer.lock:
            peer.seen.append((self.command, self.path, dict(self.headers), body))
        with contextlib.suppress(OSError):
            getattr(self, "on_" + path.strip("/").split("/")[0], self.on_missing)(body)

    do_POST = do_PUT = do_DELETE = do_PATCH = do_GET

    def on_missing(self, _):
        self.answer(404, b'{"error":"nothing here"}')

    def on_echo(self, body):
        self.answer(200, body or b"empty", Content_Type="text/plain")

    def on_kept(self, body):
        """Keeps the connection, and hangs up when it is used again."""
        self.asked = getattr(self, "asked", 0) + 1
        if self.asked == 1:
            self.answer(200, b"first")
        else:
            self.close_connection = True

    def on_gate(self, body):
        """Answers when the test opens the gate."""
        peer = self.server.peer
        with peer.lock:
            peer.gated += 1
            peer.most = max(peer.most, peer.gated)
        peer.gate.wait(60)
        with peer.lock:
            peer.gated -= 1
        self.answer(200, b"through")

    def on_never(self, _):
        self.server.peer.closing.wait(60)

    def on_cut(self, _):
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"half")
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def on_drip(self, _):
        """A byte now and then, without end."""
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        while not self.server.peer.closing.wait(0.05):
            self.wfile.write(b".")
            self.wfile.flush()

    def on_huge(self, _):
        self.send_response(200)
        self.send_header("Content-Length", str(64 * 1024 * 1024))
        self.end_headers()
        for _ in range(64):
            self.wfile.write(b"x" * 1024 * 1024)

    def on_megabyte(self, _):
        self.answer(200, b"x" * 1024 * 1024)

    def on_redirect(self, _):
        self.answer(302, b"", Location="/echo")

    def on_binary(self, _):
        self.answer(200, b"\xff\x00\xfe")

    def on_broken(self, _):
        self.answer(500, b"broken")

    def on_empty(self, _):
        self.answer(204)


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 256


class Peer:
    """with Peer(port) as peer: peer.url, peer.seen."""

    def __init__(self, port, tls=None):
        self.seen, self.lock = [], threading.Lock()
        self.gated = self.most = 0
        self.gate, self.closing = threading.Event(), threading.Event()
        self.server = Server(("127.0.0.1", port), Handler)
        self.server.peer = self
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = port
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.closing.set()
        self.gate.set()
        self.server.shutdown()
        self.server.server_close()

    def paths(self):
        with self.lock:
            return [path for _, path, _, _ in self.seen]


class Mailbox(socketserver.ThreadingTCPServer):
    """A server for mail: addresses at "no.example" are refused."""

    daemon_threads = allow_reuse_address = True

    def __init__(self, port):
        self.mails, self.port = [], port
        super().__init__(("127.0.0.1", port), MailHandler)

    def __enter__(self):
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class MailHandler(socketserver.StreamRequestHandler):
    def say(self, line):
        self.wfile.write(line.encode() + b"\r\n")

    def handle(self):
        with contextlib.suppress(OSError):
            self.talk()

    def talk(self):
        self.say("220 mail.test")
        sender, to = None, []
        while line := self.rfile.readline():
            word = line.decode().strip()
            verb = word.split(" ")[0].split(":")[0].upper()
            if verb in ("EHLO", "HELO"):
                self.say("250 mail.test")
            elif verb == "MAIL":
                sender, to = word, []
                self.say("250 yes")
            elif verb == "RCPT":
                if "no.example" in word:
                    self.say("550 nobody")
                else:
                    to.append(word)
                    self.say("250 yes")
            elif verb == "DATA":
                self.say("354 go on")
                data = b""
                while not data.endswith(b"\r\n.\r\n"):
                    data += self.rfile.readline()
                self.server.mails.append((sender, to, data[:-5].replace(b"\r\n..", b"\r\n.")))
                self.say("250 taken")
            elif verb == "QUIT":
                self.say("221 bye")
                return
            else:
                self.say("250 fine")


def certificate(folder, name):
    """A certificate for this name, signed by itself: (certificate, key)."""
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.utcnow()
    try:
        alternative = x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        alternative = x509.DNSName(name)
    made = (x509.CertificateBuilder().subject_name(who).issuer_name(who).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256()))
    cert, private = folder / f"{name}.pem", folder / f"{name}.key"
    cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                          serialization.NoEncryption()))
    cert.chmod(0o644)
    return cert, private
