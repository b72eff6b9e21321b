//! The sockets of the UDP server and the HTTP gateway: opened at the start, taken over from a predecessor,
//! changed by a reload; and the start of both servers.

use std::fmt::Display;
use std::net::UdpSocket;
use std::sync::Arc;

use anyhow::{Context, bail};
use hayate_gateway::{
    InheritedSockets as InheritedHttp, ListenConfig, ListenerChange, OpenError, OperatorPages, ReplyTo,
    Server as HttpServer,
};
use hayate_state::actor::Inbox;
use hayate_state::private::SiteData;
use hayate_state::{Board, Clock, Published, Tracker};
use hayate_udp::config::SocketConfig;
use hayate_udp::{InheritedSockets as InheritedUdp, Server as UdpServer};

use crate::config::bounded::duration_text;
use crate::config::{Document, Settings};
use crate::daemon::live_settings::LiveSettings;
use crate::daemon::upgrade::Sockets;

/// Both servers with their sockets open, before anything is served.
pub(crate) struct Servers {
    pub(crate) http: HttpServer,
    pub(crate) udp: Option<UdpServer>,
}

impl Servers {
    /// Opens everything that may need root: all but the unix socket.
    pub(crate) fn open(settings: &Settings) -> anyhow::Result<Self> {
        let listen = ListenConfig { unix_socket: None, ..settings.listen.clone() };
        // Even without an address: a reload may add one.
        let http = HttpServer::open(&listen)?;
        let udp = settings.udp.as_ref().map(|(sockets, _)| UdpServer::open(sockets)).transpose()?;
        Ok(Self { http, udp })
    }

    /// Opens the unix socket with the rights of the user that the process has become.
    pub(crate) fn open_unix(&mut self, settings: &Settings) -> anyhow::Result<()> {
        Ok(self.http.open_unix(&settings.listen)?)
    }

    /// Takes over the sockets of a predecessor.
    pub(crate) fn adopt(
        settings: &Settings,
        udp: Vec<InheritedUdp>,
        http: InheritedHttp,
    ) -> anyhow::Result<Self> {
        let http = HttpServer::adopt(&settings.listen, http)?;
        let udp = match &settings.udp {
            Some((sockets, _)) => Some(UdpServer::adopt(sockets, udp)?),
            None if udp.is_empty() => None,
            None => bail!("udp.addr is empty, but the running tracker serves UDP; a restart changes that"),
        };
        Ok(Self { http, udp })
    }

    /// Returns copies of the sockets, for a successor.
    pub(crate) fn share(&self) -> std::io::Result<Sockets> {
        Ok(Sockets {
            udp: self.udp.as_ref().map(UdpServer::clone_sockets).transpose()?.unwrap_or_default(),
            http: self.http.clone_sockets()?,
        })
    }
}

/// The addresses that are listened on now.
#[derive(Clone, Debug)]
pub(crate) struct Listening {
    http: ListenConfig,
    udp: Option<SocketConfig>,
}

/// Sockets that a reload has opened and from which nothing was read yet.
#[derive(Debug)]
pub(crate) struct NewSockets {
    pub(crate) http: ListenerChange,
    /// `None` if the UDP server stays as it is; otherwise what replaces it.
    pub(crate) udp: Option<Option<UdpServer>>,
}

impl Listening {
    pub(crate) fn from_settings(settings: &Settings) -> Self {
        let udp = settings.udp.as_ref().map(|(sockets, _)| sockets.clone());
        Self { http: settings.listen.clone(), udp }
    }

    /// Opens the UDP server again, with copies of the sockets that it had.
    ///
    /// # Errors
    /// Fails when too many files are open.
    pub(crate) fn reopen_udp(&self, sockets: &Sockets) -> anyhow::Result<Option<UdpServer>> {
        let Some(config) = &self.udp else { return Ok(None) };
        let inherited = sockets.udp.iter().map(|listener| {
            let sockets = listener.sockets.iter().map(UdpSocket::try_clone).collect::<Result<_, _>>()?;
            Ok(InheritedUdp { address: listener.address, sockets })
        });
        Ok(Some(UdpServer::adopt(config, inherited.collect::<std::io::Result<_>>()?)?))
    }

    /// Opens the addresses of `settings` that are not open yet.
    ///
    /// # Errors
    /// Fails when an address cannot be listened on; the error names it, and nothing has changed.
    pub(crate) fn open_changes(&self, settings: &Settings) -> Result<NewSockets, ListenError> {
        let new = Self::from_settings(settings);
        let addresses = |udp: &Option<SocketConfig>| udp.as_ref().map(|udp| udp.addresses.clone());
        let udp = if addresses(&new.udp) == addresses(&self.udp) {
            None
        } else {
            Some(new.udp.as_ref().map(UdpServer::open).transpose()?)
        };
        Ok(NewSockets { http: ListenerChange::open(&self.http, &new.http)?, udp })
    }
}

/// Why a reload cannot listen on an address.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    #[error(transparent)]
    Http(#[from] OpenError),
    #[error(transparent)]
    Udp(#[from] hayate_udp::OpenError),
}

impl NewSockets {
    /// Replaces the old sockets among those for a successor by copies of the new ones.
    pub(crate) fn share(&self, sockets: &mut Sockets) -> std::io::Result<()> {
        self.http.clone_sockets_into(&mut sockets.http)?;
        if let Some(udp) = &self.udp {
            sockets.udp = udp.as_ref().map(UdpServer::clone_sockets).transpose()?.unwrap_or_default();
        }
        Ok(())
    }
}

pub(crate) fn start_http(
    server: HttpServer,
    unix_socket: Option<&std::path::Path>,
    live_settings: &LiveSettings,
    site_data: Option<&Arc<Published<SiteData>>>,
    inbox: Inbox<ReplyTo>,
    clock: Clock,
    pages: OperatorPages,
) -> anyhow::Result<hayate_gateway::RunningServer> {
    let mut endpoints: Vec<String> = server.addresses().iter().map(ToString::to_string).collect();
    endpoints.extend(server.https_addresses().iter().map(|address| format!("{address} (TLS)")));
    endpoints.extend(unix_socket.map(|path| path.display().to_string()));
    if !endpoints.is_empty() {
        let config = live_settings.http.current();
        let most = config.max_connections;
        let (announces, scrapes) = match site_data {
            Some(_) => ("/PASSKEY/announce".into(), "/PASSKEY/scrape".into()),
            None => (joined(&config.announce_routes), joined(&config.scrape_routes)),
        };
        log::info!(
            "starting HTTP gateway on {}, announces at {announces}, scrapes at {scrapes}, at most {most} \
             connections",
            endpoints.join(", "),
        );
    }
    let running = server.start(&live_settings.http, &live_settings.policy, site_data, inbox, clock, pages);
    running.context("starting the HTTP gateway")
}

pub(crate) fn start_udp(
    server: Option<UdpServer>,
    document: &Document,
    live_settings: &LiveSettings,
    clock: Clock,
    board: &Board,
    tracker: impl Fn(usize) -> Tracker,
) -> anyhow::Result<Option<hayate_udp::RunningServer>> {
    let (Some(server), Some(config)) = (server, &live_settings.udp) else { return Ok(None) };
    let coalesce = document.udp.coalesce.duration();
    log::info!(
        "starting UDP server on {}, {} workers, connection ids live {}, buffers {} and {}, coalesce {}",
        joined(&server.addresses()),
        crate::config::settings::workers(document),
        document.udp.connection_id_lifetime,
        document.udp.receive_buffer,
        document.udp.send_buffer,
        duration_text(coalesce),
    );
    // Number 0 is that of the state actor.
    let running = server.coalescing(coalesce).start(config, clock, board, |worker| tracker(worker + 1));
    running.map(Some).context("starting the UDP server")
}

pub(crate) fn joined<T: Display>(items: &[T]) -> String {
    if items.is_empty() {
        return "none".into();
    }
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
