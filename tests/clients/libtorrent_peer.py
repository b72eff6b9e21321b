"""A libtorrent session with one torrent: libtorrent_peer.py seed|leech TORRENT DIRECTORY LISTEN_INTERFACES

Runs until SIGINT or SIGTERM; prints the alerts about trackers and peers. For Debian's 2.0 and PyPI's 2.1.
"""
import signal
import sys
import time

import libtorrent as lt

STOPPED_SECONDS = 2.0


def session(interfaces):
    kinds = lt.alert.category_t
    return lt.session({
        "listen_interfaces": interfaces,
        "enable_dht": False,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "allow_multiple_connections_per_ip": True,
        # Off, because it forbids scrapes of trackers on loopback and private addresses.
        "ssrf_mitigation": False,
        "alert_mask": kinds.error_notification | kinds.tracker_notification | kinds.connect_notification
        | kinds.status_notification,
    })


def show(alerts, start):
    for alert in alerts:
        print(f"{time.monotonic() - start:.2f} {type(alert).__name__} {alert.message()}", flush=True)


def main():
    role, torrent, directory, interfaces = sys.argv[1:]
    stopping = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.append(True))
    start = time.monotonic()
    running = session(interfaces)
    parameters = lt.add_torrent_params()
    parameters.ti = lt.torrent_info(torrent)
    parameters.save_path = directory
    if role == "seed":
        parameters.flags |= lt.torrent_flags.seed_mode
    handle = running.add_torrent(parameters)
    while not stopping:
        running.wait_for_alert(100)
        show(running.pop_alerts(), start)
    # Pausing announces `stopped`; the reply shows that it was sent.
    handle.pause()
    end = time.monotonic() + STOPPED_SECONDS
    replied = False
    while not replied and time.monotonic() < end:
        running.wait_for_alert(100)
        alerts = running.pop_alerts()
        replied = any(isinstance(alert, lt.tracker_reply_alert) for alert in alerts)
        show(alerts, start)
    status = handle.status()
    print("TOTALS", status.total_payload_upload, status.total_payload_download, flush=True)


main()
