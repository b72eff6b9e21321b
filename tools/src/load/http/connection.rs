//! One connection, one request at a time.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpBindAddressNoPort;
use socket2::{Domain, Socket, Type};

use super::wire::{self, HttpReply};
use crate::load::LoadError;
use crate::load::pace::Share;
use crate::load::plan::Request;
use crate::load::routes::Route;

/// Octets of replies that are read at once.
const INPUT_LEN: usize = 16 << 10;
/// Longest reply.
const REPLY_MAX: usize = 4 << 20;
/// How long the first connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The state of a connection after some work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The connection waits.
    Waiting,
    /// A reply came; good or not.
    Answered(Request, bool),
    /// There will be no reply.
    Broken(Request),
    /// The tracker closed the connection after its last reply.
    Closed,
}

/// A connection, open or not.
#[derive(Debug)]
pub struct Connection {
    token: Token,
    route: Route,
    stream: Option<TcpStream>,
    /// A request was answered on it before: the connection is kept.
    reused: bool,
    /// The request, while it waits for its reply.
    request: Option<Request>,
    /// When the connection began to wait: for the reply, or for the tracker to close it.
    waiting_since: u64,
    output: Vec<u8>,
    written: usize,
    input: Vec<u8>,
    filled: usize,
    /// The part of a fill that it announces.
    pub share: Share,
}

impl Connection {
    /// Makes a connection that is not yet open.
    #[must_use]
    pub fn new(index: usize, route: Route) -> Self {
        Self {
            token: Token(index),
            route,
            stream: None,
            reused: false,
            request: None,
            waiting_since: 0,
            output: Vec::new(),
            written: 0,
            input: vec![0; INPUT_LEN],
            filled: 0,
            share: Share::new(index as u64),
        }
    }

    /// Checks whether the tracker can be reached, before anything else.
    ///
    /// # Errors
    /// Fails when the tracker cannot be reached.
    pub fn probe(&self) -> Result<(), LoadError> {
        let Route { from, to, .. } = self.route;
        let probe = || self.socket()?.connect_timeout(&to.into(), CONNECT_TIMEOUT);
        probe().map_err(|reason| LoadError::Socket { from, to, reason })
    }

    /// Returns the tracker's address.
    #[must_use]
    pub fn tracker(&self) -> SocketAddr {
        self.route.to
    }

    /// Whether there is something left to write.
    #[must_use]
    pub fn has_output(&self) -> bool {
        self.written < self.output.len()
    }

    /// Whether it waits for a reply.
    #[must_use]
    pub fn has_request(&self) -> bool {
        self.request.is_some()
    }

    /// Sends a request; `write` writes its text.
    pub fn send_request(
        &mut self,
        registry: &Registry,
        request: Request,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Step {
        self.output.clear();
        write(&mut self.output);
        self.waiting_since = request.sent;
        self.request = Some(request);
        (self.written, self.filled) = (0, 0);
        if self.stream.is_none()
            && let Err(_refused) = self.open(registry)
        {
            return self.give_up();
        }
        self.advance(registry, request.sent)
    }

    /// Writes and reads as far as it goes.
    pub fn advance(&mut self, registry: &Registry, now: u64) -> Step {
        loop {
            let Some(stream) = &mut self.stream else { return Step::Waiting };
            let pending = self.output.get(self.written..).unwrap_or_default();
            if self.request.is_some() && !pending.is_empty() {
                match stream.write(pending) {
                    Ok(written) => self.written += written,
                    Err(error) if is_would_block(&error) => return Step::Waiting,
                    Err(_) => return self.fail(registry),
                }
                // The reply cannot be there yet.
                return Step::Waiting;
            }
            let Some(space) = self.input.get_mut(self.filled..) else { return self.give_up() };
            let ended = match stream.read(space) {
                Ok(len) => {
                    self.filled += len;
                    len == 0
                }
                Err(error) if is_would_block(&error) => return Step::Waiting,
                Err(_) => true,
            };
            let Some(request) = self.request else {
                return if ended { self.close() } else { Step::Waiting };
            };
            match wire::read_reply(self.input.get(..self.filled).unwrap_or_default(), ended) {
                HttpReply::Partial if self.filled == self.input.len() && self.filled < REPLY_MAX => {
                    self.input.resize(2 * self.input.len(), 0);
                }
                HttpReply::Partial if self.filled < REPLY_MAX => {}
                HttpReply::Partial | HttpReply::Broken => return self.fail(registry),
                HttpReply::Whole { good, keeps } => {
                    self.request = None;
                    self.reused = keeps;
                    self.waiting_since = now;
                    // The end may have come with the reply; then no further event reports it.
                    if ended || !keeps && is_at_end(stream) {
                        self.stream = None;
                    }
                    return Step::Answered(request, good);
                }
            }
        }
    }

    /// Whether it may send a request. If not, its last reply has come, but not yet the end of the connection.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.request.is_none() && (self.stream.is_none() || self.reused)
    }

    /// Gives up if it has waited since before `before`.
    pub fn expire(&mut self, before: u64) -> Step {
        match self.request {
            _ if self.waiting_since >= before => Step::Waiting,
            None if self.is_free() => Step::Waiting,
            None => self.close(),
            Some(_) => self.give_up(),
        }
    }

    fn close(&mut self) -> Step {
        self.stream = None;
        // The tracker may close a kept connection at any time; nothing waits for that.
        if std::mem::take(&mut self.reused) { Step::Waiting } else { Step::Closed }
    }

    /// If a kept connection ends before any octet of the reply, the tracker closed it before the request
    /// came: the request is sent once more.
    fn fail(&mut self, registry: &Registry) -> Step {
        if !self.reused || self.filled > 0 || self.open(registry).is_err() {
            return self.give_up();
        }
        self.written = 0;
        self.advance(registry, self.waiting_since)
    }

    fn give_up(&mut self) -> Step {
        (self.stream, self.reused) = (None, false);
        self.request.take().map_or(Step::Waiting, Step::Broken)
    }

    fn open(&mut self, registry: &Registry) -> io::Result<()> {
        self.reused = false;
        let socket = self.socket()?;
        if let Err(error) = socket.connect(&self.route.to.into())
            && error.raw_os_error() != Some(nix::errno::Errno::EINPROGRESS as i32)
        {
            return Err(error);
        }
        let mut stream = TcpStream::from_std(socket.into());
        registry.register(&mut stream, self.token, Interest::READABLE | Interest::WRITABLE)?;
        self.stream = Some(stream);
        Ok(())
    }

    fn socket(&self) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(self.route.to), Type::STREAM.nonblocking(), None)?;
        if !self.route.from.ip().is_unspecified() {
            // So the port is chosen when the connection opens, and a port in TIME_WAIT can be used again. If
            // the kernel refuses the first, the number of connections is smaller, nothing worse.
            _ = setsockopt(&socket, IpBindAddressNoPort, &true);
            socket.set_reuse_address(true)?;
            self.route.bind(&socket)?;
        }
        Ok(socket)
    }
}

/// Whether the other side has closed it, as far as is known now.
fn is_at_end(stream: &mut TcpStream) -> bool {
    let read = stream.read(&mut [0; 64]);
    read.map_or_else(|error| !is_would_block(&error), |len| len == 0)
}

/// Whether the error only means "not now".
fn is_would_block(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::NotConnected)
}
