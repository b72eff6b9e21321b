//! Signals: SIGHUP and SIGUSR1 reload, the first SIGINT or SIGTERM stops in order, the second at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, sync_channel};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag;
use signal_hook::iterator::Signals;

/// Wishes that wait at most; signals beyond wait in the system, where equal ones become one.
const WISHES_MAX: usize = 16;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Read the configuration again.
    Reload,
    /// Stop in order.
    Stop,
}

/// Listens from now on; each signal is one wish. A second SIGINT or SIGTERM ends the process within its
/// handler, with exit code 130 or 143, however busy everything else is.
///
/// # Errors
/// When the system refuses handlers or a thread.
pub(crate) fn listen() -> io::Result<Receiver<Wish>> {
    let stopping = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal finds the flag down and raises it.
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stopping))?;
        flag::register(signal, Arc::clone(&stopping))?;
    }
    let mut signals = Signals::new([SIGHUP, SIGUSR1, SIGINT, SIGTERM])?;
    let (wishes, receiver) = sync_channel(WISHES_MAX);
    let forward = move || {
        for signal in signals.forever() {
            let wish = if matches!(signal, SIGHUP | SIGUSR1) { Wish::Reload } else { Wish::Stop };
            if wishes.send(wish).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(forward)?;
    Ok(receiver)
}
