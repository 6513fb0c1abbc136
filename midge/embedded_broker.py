"""amqtt as a process of its own: `python -m midge.embedded_broker PORT`. For a first run without
Mosquitto.

It speaks MQTT 3.1.1 only, keeps everything in memory and is several times slower; do not build on
it.
"""

import asyncio
import logging
import signal
import sys


async def serve(port: int) -> None:
    """Run the broker on loopback until SIGTERM or SIGINT."""
    from amqtt.broker import Broker

    # Its default binds all interfaces, so everything is said here.
    broker = Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
            "plugins": {
                "amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}
            },
        }
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await broker.start()
    await stop.wait()
    await broker.shutdown()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    asyncio.run(serve(int(sys.argv[1])))
