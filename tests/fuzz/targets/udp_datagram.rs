//! Any datagrams from any sources: no panic, nothing larger than the request before the source is verified,
//! nothing longer than a reply may be, and nothing that is answered by itself.
#![no_main]

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};

use hayate_state::{Now, Policy, Published, Swarms, Tracker};
use hayate_udp::config::{REPLY_MAX, UdpConfig};
use hayate_udp::{Engine, Outcome};
use libfuzzer_sys::fuzz_target;

fn engine() -> Engine {
    let policy = Published::new(Policy { memory_max: 64 << 20, ..Policy::default() });
    let spoofing_sources = vec!["10.0.0.0/8".parse().expect("a network")];
    let config = Published::new(UdpConfig { spoofing_sources, ..UdpConfig::with_key("a key for fuzzing") });
    Engine::new(Tracker::new(Swarms::new(8), &policy, 7), config.subscribe())
}

thread_local! {
    static ENGINE: RefCell<Engine> = RefCell::new(engine());
}

/// One step of the input: when, from where, whether with a good id, and the datagram.
fn step(engine: &mut Engine, [second, host, flags, len]: [u8; 4], octets: &[u8]) {
    let now = Now::at(u32::from(second) * 7);
    let address: IpAddr = match flags & 3 {
        0 => [192, 0, 2, host].into(),
        1 => [10, 0, 0, host].into(),
        2 => [0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(host)].into(),
        _ => [0, 0, 0, 0, 0, 0xffff, 0xc000, 0x200 + u16::from(host)].into(),
    };
    let source = SocketAddr::new(address, u16::from(flags) * 256 + u16::from(len));
    let mut reply = [0; REPLY_MAX];
    engine.begin_batch(now);
    let mut datagram = octets.to_vec();
    let verified = flags & 4 != 0 && datagram.len() >= 8 && source.port() != 0;
    if verified {
        let mut connect = 0x0417_2710_1980_u64.to_be_bytes().to_vec();
        connect.extend([0; 8]);
        let Outcome::Reply(id) = engine.handle(now, source, &connect, &mut reply) else {
            panic!("a connect was not answered")
        };
        assert_eq!(id.len(), 16);
        datagram[..8].copy_from_slice(&id[8..16]);
    }
    let Outcome::Reply(answer) = engine.handle(now, source, &datagram, &mut reply) else { return };
    assert!(answer.len() <= REPLY_MAX && answer.len() >= 8);
    assert!(verified || answer.len() <= datagram.len(), "amplification");
    assert_eq!(answer[4..8], datagram[12..16], "the transaction id");
    let answer = answer.to_vec();
    let echo = engine.handle(now, source, &answer, &mut reply);
    assert!(matches!(echo, Outcome::Silence(_)), "two trackers would talk for ever");
}

fuzz_target!(|input: &[u8]| {
    ENGINE.with_borrow_mut(|engine| {
        let mut rest = input;
        while let Some((&head, tail)) = rest.split_first_chunk::<4>() {
            let len = (usize::from(head[3]) * 8).min(tail.len());
            let (octets, next) = tail.split_at(len);
            step(engine, head, octets);
            rest = next;
        }
    });
});
