//! What concerns the process, whatever it serves.
//!
//! | module | what is in it |
//! |---|---|
//! | [`lock`] | the lock that only one tracker in a folder has |
//! | [`privileges`] | becoming another user |
//! | [`ownership`] | whether that user may use what is in `state_dir` |
//! | [`connection_id_key`] | the generated key of the connection ids |
//! | [`file_limit`] | the limit of open files |
//! | [`malloc_trim`] | how much memory there is, and its return to the system |
//! | [`logging`] | lines of text or JSON on stderr |
//! | [`log_thread`] | the thread that writes them while the tracker serves, so that no other waits |
//! | [`systemd`] | notifications to systemd |

pub(crate) mod connection_id_key;
pub(crate) mod file_limit;
pub(crate) mod lock;
pub(crate) mod log_thread;
pub(crate) mod logging;
pub(crate) mod malloc_trim;
pub(crate) mod ownership;
pub(crate) mod privileges;
pub(crate) mod systemd;
