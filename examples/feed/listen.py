"""Prints what a channel tells: TOKEN=… python listen.py trades."""

import os
import sys

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

url = f"{os.environ.get('FEED', 'ws://127.0.0.1:8000')}/channels/{sys.argv[1]}"
headers = {"Authorization": f"Bearer {os.environ['TOKEN']}"}
try:
    with connect(url, additional_headers=headers) as socket:
        for message in socket:
            print(message, flush=True)
except ConnectionClosed as closed:
    if closed.rcvd is not None:
        print(f"closed ({closed.rcvd.code}): {closed.rcvd.reason}")
except InvalidStatus as refused:
    print(f"refused ({refused.response.status_code}): {refused.response.body.decode()}")
