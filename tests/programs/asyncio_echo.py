# SPDX-License-Identifier: MIT OR Apache-2.0
"""asyncio keeps TLS in memory BIOs: no file descriptor inside any SSL call.

asyncio_echo.py server PORT CERT KEY | client PORT CA
"""
import asyncio
import ssl
import sys

me, port = sys.argv[1], int(sys.argv[2])
body = bytes(i * 13 % 241 for i in range(200_000))


async def server():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[3], sys.argv[4])
    over = asyncio.Event()

    async def serve(reader, writer):
        got = await reader.readexactly(len(body))
        print("server got what was sent:", got == body)
        writer.write(got)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        over.set()

    listener = await asyncio.start_server(serve, "127.0.0.1", port, ssl=context)
    await over.wait()
    listener.close()


async def client():
    context = ssl.create_default_context(cafile=sys.argv[3])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    writer.write(body)
    await writer.drain()
    got = await reader.readexactly(len(body))
    print("client got it back:", got == body)
    writer.close()
    await writer.wait_closed()


asyncio.run(asyncio.wait_for(server() if me == "server" else client(), 60))
