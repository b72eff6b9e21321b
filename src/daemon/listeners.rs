//! Sockets of both doors: opened at the start, taken over from a predecessor, changed by a reload; and the
//! doors behind them.

use std::fmt::Display;
use std::net::UdpSocket;
use std::sync::Arc;

use anyhow::{Context, bail};
use hayate_gateway::{
    InheritedSockets as HttpHanded, ListenConfig, ListenerChange, OpenError, OperatorPages, ReplyTo,
    Server as HttpDoor,
};
use hayate_state::actor::Inbox;
use hayate_state::private::SiteData;
use hayate_state::{Board, Clock, Published, Tracker};
use hayate_udp::config::SocketConfig;
use hayate_udp::{InheritedSockets as UdpHanded, Server as UdpDoor};

use crate::config::bounded::duration_text;
use crate::config::{Document, Settings};
use crate::daemon::live_settings::LiveSettings;
use crate::daemon::upgrade::Sockets;

/// Open sockets, before anything is served.
pub(crate) struct Servers {
    pub(crate) http: HttpDoor,
    pub(crate) udp: Option<UdpDoor>,
}

impl Servers {
    /// Opens all that may need root: everything but the unix socket.
    pub(crate) fn open(settings: &Settings) -> anyhow::Result<Self> {
        let listen = ListenConfig { unix_socket: None, ..settings.listen.clone() };
        // Also without an address: a reload may bring one.
        let http = HttpDoor::open(&listen)?;
        let udp = settings.udp.as_ref().map(|(sockets, _)| UdpDoor::open(sockets)).transpose()?;
        Ok(Self { http, udp })
    }

    /// Opens the rest, by the rights of the user that the process has become.
    pub(crate) fn open_unix(&mut self, settings: &Settings) -> anyhow::Result<()> {
        Ok(self.http.open_unix(&settings.listen)?)
    }

    /// The sockets of a predecessor.
    pub(crate) fn adopt(settings: &Settings, udp: Vec<UdpHanded>, http: HttpHanded) -> anyhow::Result<Self> {
        let http = HttpDoor::adopt(&settings.listen, http)?;
        let udp = match &settings.udp {
            Some((sockets, _)) => Some(UdpDoor::adopt(sockets, udp)?),
            None if udp.is_empty() => None,
            None => bail!("udp.addr is empty, but the running tracker serves UDP; a restart changes that"),
        };
        Ok(Self { http, udp })
    }

    /// The same sockets once more, for a successor.
    pub(crate) fn share(&self) -> std::io::Result<Sockets> {
        Ok(Sockets {
            udp: self.udp.as_ref().map(UdpDoor::clone_sockets).transpose()?.unwrap_or_default(),
            http: self.http.clone_sockets()?,
        })
    }
}

/// What is listened on now.
#[derive(Clone, Debug)]
pub(crate) struct Listening {
    http: ListenConfig,
    udp: Option<SocketConfig>,
}

/// Sockets that a reload has opened, and that nobody reads yet.
#[derive(Debug)]
pub(crate) struct NewSockets {
    pub(crate) http: ListenerChange,
    /// `None` where the UDP door stays as it is, else what takes its place.
    pub(crate) udp: Option<Option<UdpDoor>>,
}

impl Listening {
    pub(crate) fn from_settings(settings: &Settings) -> Self {
        let udp = settings.udp.as_ref().map(|(sockets, _)| sockets.clone());
        Self { http: settings.listen.clone(), udp }
    }

    /// The UDP door once more, by copies of the sockets that it had.
    ///
    /// # Errors
    /// When no more files may be open.
    pub(crate) fn reopen_udp(&self, sockets: &Sockets) -> anyhow::Result<Option<UdpDoor>> {
        let Some(config) = &self.udp else { return Ok(None) };
        let handed = sockets.udp.iter().map(|handed| {
            let sockets = handed.sockets.iter().map(UdpSocket::try_clone).collect::<Result<_, _>>()?;
            Ok(UdpHanded { address: handed.address, sockets })
        });
        Ok(Some(UdpDoor::adopt(config, handed.collect::<std::io::Result<_>>()?)?))
    }

    /// Opens what `settings` name and is not open yet.
    ///
    /// # Errors
    /// The first address that cannot be listened on; then nothing has changed.
    pub(crate) fn open_changes(&self, settings: &Settings) -> Result<NewSockets, ListenError> {
        let new = Self::from_settings(settings);
        let addresses = |udp: &Option<SocketConfig>| udp.as_ref().map(|udp| udp.addresses.clone());
        let udp = if addresses(&new.udp) == addresses(&self.udp) {
            None
        } else {
            Some(new.udp.as_ref().map(UdpDoor::open).transpose()?)
        };
        Ok(NewSockets { http: ListenerChange::open(&self.http, &new.http)?, udp })
    }
}

/// Why a reload cannot listen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    #[error(transparent)]
    Http(#[from] OpenError),
    #[error(transparent)]
    Udp(#[from] hayate_udp::OpenError),
}

impl NewSockets {
    /// Puts copies of the new sockets in the place of the old ones among those for a successor.
    pub(crate) fn share(&self, sockets: &mut Sockets) -> std::io::Result<()> {
        self.http.clone_sockets_into(&mut sockets.http)?;
        if let Some(udp) = &self.udp {
            sockets.udp = udp.as_ref().map(UdpDoor::clone_sockets).transpose()?.unwrap_or_default();
        }
        Ok(())
    }
}

pub(crate) fn start_http(
    door: HttpDoor,
    unix_socket: Option<&std::path::Path>,
    live_settings: &LiveSettings,
    register: Option<&Arc<Published<SiteData>>>,
    inbox: Inbox<ReplyTo>,
    clock: Clock,
    pages: OperatorPages,
) -> anyhow::Result<hayate_gateway::RunningServer> {
    let mut places: Vec<String> = door.addresses().iter().map(ToString::to_string).collect();
    places.extend(door.https_addresses().iter().map(|address| format!("{address} (TLS)")));
    places.extend(unix_socket.map(|path| path.display().to_string()));
    if !places.is_empty() {
        let config = live_settings.http.current();
        let most = config.max_connections;
        let (announces, scrapes) = match register {
            Some(_) => ("/PASSKEY/announce".into(), "/PASSKEY/scrape".into()),
            None => (joined(&config.announce_routes), joined(&config.scrape_routes)),
        };
        log::info!(
            "starting HTTP frontend on {}, announces at {announces}, scrapes at {scrapes}, at most {most} \
             connections",
            places.join(", "),
        );
    }
    let running = door.start(&live_settings.http, &live_settings.policy, register, inbox, clock, pages);
    running.context("starting the HTTP frontend")
}

pub(crate) fn start_udp(
    door: Option<UdpDoor>,
    document: &Document,
    live_settings: &LiveSettings,
    clock: Clock,
    board: &Board,
    tracker: impl Fn(usize) -> Tracker,
) -> anyhow::Result<Option<hayate_udp::RunningServer>> {
    let (Some(door), Some(config)) = (door, &live_settings.udp) else { return Ok(None) };
    let coalesce = document.udp.coalesce.duration();
    log::info!(
        "starting UDP frontend on {}, {} workers, connection ids live {}, buffers {} and {}, coalesce {}",
        joined(&door.addresses()),
        crate::config::settings::workers(document),
        document.udp.connection_id_lifetime,
        document.udp.receive_buffer,
        document.udp.send_buffer,
        duration_text(coalesce),
    );
    // Number 0 is the state actor's.
    let running = door.coalescing(coalesce).start(config, clock, board, |worker| tracker(worker + 1));
    running.map(Some).context("starting the UDP frontend")
}

pub(crate) fn joined<T: Display>(items: &[T]) -> String {
    if items.is_empty() {
        return "none".into();
    }
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
