//! The successor's side: what it inherits, and how it comes to know the swarms.

use std::fs::File;
use std::io::{self, BufReader, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;

use anyhow::{Context, bail};
use hayate_gateway::Handed as HttpHanded;
use hayate_state::snapshot::container::{Reader, SnapshotError};
use hayate_state::snapshot::delta::{Delta, TAG_DELTAS};
use hayate_state::snapshot::swarms::{CompletedFrom, Restore, TAG_SWARMS};
use hayate_state::{Clock, Policy, Swarms};
use hayate_udp::Handed as UdpHanded;

use crate::signals::{Wish, Wishes};
use crate::storage::Storage;

use super::{PATIENCE, READY, SERVING, TAG_GO, VARIABLE, wire};

/// What a predecessor hands over.
#[derive(Debug)]
pub(crate) struct Inheritance {
    /// Of the UDP door.
    pub(crate) udp: Vec<UdpHanded>,
    /// Of the gateway.
    pub(crate) http: HttpHanded,
    /// The lock on `state_dir`.
    pub(crate) lock: File,
    stream: UnixStream,
}

impl Inheritance {
    /// What a predecessor hands over, if this process was started by one.
    ///
    /// # Errors
    /// When it was, but the predecessor does not hand over what it should.
    pub(crate) fn receive() -> anyhow::Result<Option<Self>> {
        if std::env::var_os(VARIABLE).is_none() {
            return Ok(None);
        }
        let stdin = io::stdin().as_fd().try_clone_to_owned().context("the socket of the predecessor")?;
        let stream = UnixStream::from(stdin);
        stream.set_read_timeout(Some(PATIENCE)).context("this process was not started by a predecessor")?;
        let (manifest, fds) = wire::receive(&stream).context("what the predecessor hands over")?;
        let mut fds = fds.into_iter();
        let udp = manifest.udp.into_iter().map(|(address, count)| {
            let sockets = fds.by_ref().take(count).map(Into::into).collect();
            UdpHanded { address, sockets }
        });
        let udp = udp.collect();
        let tcp = fds.by_ref().take(manifest.http).map(TcpListener::from).collect();
        let tls = fds.by_ref().take(manifest.https).map(TcpListener::from).collect();
        let unix = if manifest.unix { fds.next().map(UnixListener::from) } else { None };
        let metrics = fds.by_ref().take(manifest.metrics).map(TcpListener::from).collect();
        let lock = fds.next().map(|fd: OwnedFd| File::from(fd)).context("the lock is missing")?;
        Ok(Some(Self { udp, http: HttpHanded { tcp, tls, unix, metrics }, lock, stream }))
    }

    /// Tells the predecessor that all is good, and takes in the swarms until it stops.
    ///
    /// # Errors
    /// When the predecessor, or what it sends, breaks off.
    pub(crate) fn take_in(
        mut stream: UnixStream,
        swarms: &Swarms,
        policy: &Policy,
        clock: Clock,
    ) -> anyhow::Result<Reception> {
        stream.write_all(&[READY])?;
        let mut reader = Reader::new(BufReader::with_capacity(1 << 18, stream))?;
        let mut restore = Restore::new(swarms, policy, CompletedFrom::Snapshot);
        let written_at = reader.written_at();
        while let Some((tag, payload)) = reader.next_block()? {
            let now = clock.now();
            match tag {
                TAG_SWARMS => restore.block(now, written_at, payload)?,
                TAG_DELTAS => apply(swarms, policy, clock, payload)?,
                TAG_GO => {
                    log::info!("taken over: {}", restore.summary());
                    return Ok(Reception { reader });
                }
                _ => bail!("the predecessor sends a block of an unknown kind"),
            }
        }
        bail!("the predecessor has ended before this process could serve")
    }

    /// Parts that belong to the doors, the lock, and what is still to come.
    pub(crate) fn into_parts(self) -> (Vec<UdpHanded>, HttpHanded, File, UnixStream) {
        (self.udp, self.http, self.lock, self.stream)
    }
}

/// What still comes while this process serves.
#[derive(Debug)]
pub(crate) struct Reception {
    reader: Reader<BufReader<UnixStream>>,
}

impl Reception {
    /// Tells the predecessor that this process serves, goes on receiving what it still has to tell, and says
    /// when it has ended.
    ///
    /// # Errors
    /// When the predecessor is gone, or the system gives no thread.
    pub(crate) fn go_on(
        self,
        storage: &Storage,
        policy: Arc<Policy>,
        clock: Clock,
        wishes: &Wishes,
    ) -> anyhow::Result<()> {
        self.reader.get_ref().get_ref().write_all(&[SERVING]).context("telling the predecessor")?;
        storage.lock.sign("").context("the lock on state_dir")?;
        let (swarms, wishes) = (Arc::clone(&storage.swarms), wishes.clone());
        std::thread::Builder::new().name("heir".into()).spawn(move || {
            self.finish(&swarms, &policy, clock);
            wishes.send(Wish::Inherited);
        })?;
        Ok(())
    }

    /// Applies what the predecessor still has to tell, and returns when it has closed the store.
    fn finish(mut self, swarms: &Swarms, policy: &Policy, clock: Clock) {
        // The predecessor may have much to write to the store.
        let _ = self.reader.get_ref().get_ref().set_read_timeout(None);
        loop {
            match self.reader.next_block() {
                Ok(Some((TAG_DELTAS, payload))) => {
                    if let Err(error) = apply(swarms, policy, clock, payload) {
                        log::warn!("the last words of the predecessor: {error}");
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => {
                    log::warn!("the predecessor broke off: {error}");
                    break;
                }
            }
        }
        // It closes its end when the store is closed.
        let _ = io::copy(&mut self.reader.into_inner(), &mut io::sink());
    }
}

fn apply(swarms: &Swarms, policy: &Policy, clock: Clock, payload: &[u8]) -> Result<(), SnapshotError> {
    let now = clock.now().tick;
    Delta::read(payload)?.iter().for_each(|delta| swarms.apply(now, policy, delta));
    Ok(())
}
