"""A backend that never answers: it takes connections on the port of its argument and reads what comes, as long polls need."""

import asyncio
import resource
import sys


async def hold(reader, _writer):
    while await reader.read(4096):
        pass


async def main(port):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # 4 KiB for what is read: a poll is one short head.
    server = await asyncio.start_server(hold, "127.0.0.1", port, limit=4096, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
