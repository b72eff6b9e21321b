//! Notifications to systemd.

use std::sync::mpsc::sync_channel;
use std::time::Duration;

use sd_notify::NotifyState;

/// Longest time that systemd may take to receive a notification.
pub(crate) const NOTIFY_MAX: Duration = Duration::from_millis(250);

/// Notifies systemd, if it waits for that (`Type=notify`). The reader of that socket may hang: that holds up
/// this process for no longer than [`NOTIFY_MAX`].
pub(crate) fn notify(state: NotifyState<'static>) {
    let (sent, done) = sync_channel::<()>(0);
    let thread = std::thread::Builder::new().name("notify".into()).spawn(move || {
        // Dropped at the end.
        let _sent = sent;
        if let Err(error) = sd_notify::notify(std::slice::from_ref(&state)) {
            log::warn!("systemd was not notified of {state:?}: {error}");
        }
    });
    if thread.is_ok() {
        let _ = done.recv_timeout(NOTIFY_MAX);
    }
}
