"""nginx as the sandbox of the small requests, where it is installed.

It costs less of the shared core than bench/sandbox.py, which lifts the relay's ceiling by a tenth (79,000 to
87,000 req/s). Downloads and uploads stay with our own: the relay is at its ceiling with it too, and nginx
answers an upload before it has read it, which a closed-loop client must not build on.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from bench.sandbox import BODY

# Debian puts it where only root's PATH looks.
USUAL_PATH: Final = "/usr/sbin/nginx"
# Log, listening socket, and what the loader opened.
SPARE: Final = 50

CONFIG: Final = """
daemon off;
master_process off;
worker_rlimit_nofile {files};
error_log {folder}/error.log;
pid {folder}/nginx.pid;
events {{ worker_connections {connections}; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
    # The fan-out relay dials long before it asks.
    client_header_timeout 3600s;
    tcp_nodelay on;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 0.0.0.0:{port} backlog=4096;
        location = /execute {{
            default_type application/json;
            return 200 '{body}';
        }}
    }}
}}
"""


def find() -> str | None:
    """The path of nginx, if there is one."""
    return shutil.which("nginx") or (USUAL_PATH if Path(USUAL_PATH).exists() else None)


def command(program: str, folder: Path, port: int, files: int) -> list[str]:
    """Write the configuration and give the command that runs it in the foreground, as one process."""
    path = folder / "nginx.conf"
    # Within quotes nginx reads a backslash as the start of an escape: JSON's has to stay one.
    body = BODY.decode().replace("\\", "\\\\")
    path.write_text(
        CONFIG.format(folder=folder, port=port, files=files, connections=files - SPARE, body=body)
    )
    return [program, "-c", str(path)]
