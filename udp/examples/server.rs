//! The smallest tracker: one UDP server on the addresses given as arguments, everything at its default, until
//! it is killed. `cargo run --release -p hayate-udp --example server -- 127.0.0.1:6969 '[::1]:6969'`

use std::sync::Arc;

use hayate_state::{Board, Clock, Policy, Published, Swarms, Tracker};
use hayate_udp::{Server, SocketConfig, UdpConfig};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let addresses = std::env::args().skip(1).map(|text| text.parse()).collect::<Result<_, _>>()?;
    let sockets = SocketConfig { addresses, workers: 1, receive_buffer: 8 << 20, send_buffer: 8 << 20 };
    let config = Published::new(UdpConfig::with_key("an example, do not copy"));
    let (swarms, policy) = (Swarms::new(0), Published::new(Policy::default()));
    let tracker = |seed: usize| Tracker::new(Arc::clone(&swarms), &policy, seed as u64);
    let server = Server::open(&sockets)?;
    println!("{:?}", server.addresses());
    let board = Board::default();
    let _running = server.start(&config, Clock::start(), &board, tracker)?;
    loop {
        std::thread::park();
    }
}
