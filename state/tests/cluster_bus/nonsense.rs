//! A false server, for answers that a real one gives rarely or never.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use hayate_state::Clock;
use hayate_state::cluster::bus::Bus;
use hayate_state::cluster::bus::redis::RedisBus;

use crate::{KEY, append, assert_fails, bus, settings};

const INFO: &str = "redis_version:7.0.15\r\nmaxmemory_policy:noeviction\r\n";

/// Starts a server that answers each command by `answer`, and ends a connection where that is `None`.
fn false_server(answer: impl Fn(&[String]) -> Option<String> + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = Arc::clone(&answer);
            thread::spawn(move || serve(stream, &*answer));
        }
    });
    url
}

fn serve(stream: TcpStream, answer: &dyn Fn(&[String]) -> Option<String>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let len = read_number(&mut reader)?;
        let mut command = Vec::new();
        for _ in 0..len {
            let mut octets = vec![0; read_number(&mut reader)? + 2];
            reader.read_exact(&mut octets).ok()?;
            command.push(String::from_utf8_lossy(&octets).trim_end().to_owned());
        }
        reader.get_mut().write_all(answer(&command)?.as_bytes()).ok()?;
    }
}

fn read_number(reader: &mut impl BufRead) -> Option<usize> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    line.trim_end().get(1..)?.parse().ok()
}

/// Answers as a server does at a connect, and to a question for the time.
fn usual(command: &[String]) -> Option<String> {
    Some(match command[0].as_str() {
        "INFO" => format!("${}\r\n{INFO}\r\n", INFO.len()),
        "TIME" => "*2\r\n$4\r\n1700\r\n$1\r\n0\r\n".to_owned(),
        "XREAD" => "*-1\r\n".to_owned(),
        "XADD" => "$4\r\n11-7\r\n".to_owned(),
        _ => "+OK\r\n".to_owned(),
    })
}

/// Starts a server that answers one command by `text`, and all others as usual.
fn answers(name: &'static str, text: impl Into<String>) -> String {
    let text = text.into();
    false_server(move |command| if command[0] == name { Some(text.clone()) } else { usual(command) })
}

/// Octets of memory that this process had at most.
fn memory_peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn the_false_server_is_good_enough() {
    let exchanged = append(&mut bus(&answers("NOTHING", "")), &[b"a"]).unwrap();
    assert_eq!((exchanged.server_time, exchanged.appended.len()), (Duration::from_secs(1700), 1));
}

#[test]
fn answers_that_nobody_asked_for_are_unsuitable() {
    let stream = |entries: &str| format!("*1\r\n*2\r\n${}\r\n{KEY}\r\n{entries}", KEY.len());
    for (command, text) in [
        ("CLIENT", "+QUEUED\r\n".to_owned()),
        ("CLIENT", "MOVED\r\n".to_owned()),
        ("INFO", "+\r\n".to_owned()),
        ("INFO", "$-1\r\n".to_owned()),
        ("INFO", "$2\r\n\u{80}\r\n".to_owned()),
        ("TIME", ":1700\r\n".to_owned()),
        ("TIME", "*3\r\n$1\r\n1\r\n$1\r\n1\r\n$1\r\n1\r\n".to_owned()),
        ("TIME", "*2\r\n$20\r\n18446744073709551615\r\n$20\r\n18446744073709551615\r\n".to_owned()),
        ("TIME", "-MOVED 7 127.0.0.1:7\r\n".to_owned()),
        ("XADD", "+OK\r\n".to_owned()),
        ("XADD", ":1\r\n".to_owned()),
        ("XADD", "$-1\r\n".to_owned()),
        ("XREAD", "*2\r\n".to_owned()),
        ("XREAD", "*1\r\n*2\r\n$5\r\nother\r\n*0\r\n".to_owned()),
        ("XREAD", stream("*65\r\n")),
        ("XREAD", stream("*1\r\n*2\r\n$3\r\n0-0\r\n*0\r\n")),
        ("XREAD", stream("*2\r\n*2\r\n$3\r\n7-1\r\n*0\r\n*2\r\n$3\r\n7-1\r\n*0\r\n")),
        ("XREAD", stream("*1\r\n*2\r\n$3\r\n7-1\r\n+b\r\n")),
        ("XREAD", "HTTP/1.1 400 Bad Request\r\n\r\n".to_owned()),
        ("XREAD", "x".repeat(10_000)),
    ] {
        let result = append(&mut bus(&answers(command, text.clone())), &[b"a"]);
        assert_fails!(result, Unsuitable);
    }
    for text in
        ["*0\r\n", "*1\r\n$6\r\nlength\r\n", "*2\r\n$6\r\nlength\r\n:-1\r\n", "*2\r\n$1\r\nx\r\n:1\r\n"]
    {
        assert_fails!(bus(&answers("XINFO", text)).stream_state(KEY), Unsuitable);
    }
}

#[test]
fn lengths_are_not_believed() {
    let before = memory_peak();
    for text in ["$60000\r\n", "$8589934592\r\nab", "*9000000000000000000\r\n", "*1\r\n*2\r\n*60000000\r\n"] {
        for command in ["INFO", "TIME", "XADD", "XREAD"] {
            let text = text.to_owned();
            let url = false_server(move |asked| match asked[0] == command {
                true => Some(text.clone()),
                false if asked[0] == "CLIENT" || command == "XREAD" || asked[0] == "INFO" => usual(asked),
                false => None,
            });
            let mut settings = settings(&url);
            settings.read_timeout = Duration::from_millis(200);
            let result = RedisBus::new(settings, Clock::start()).unwrap().exchange(
                &hayate_state::cluster::bus::Exchange {
                    key: KEY,
                    append: &[vec![7]],
                    oldest: crate::BEGIN,
                    position: crate::BEGIN,
                    read_max: 64,
                },
            );
            assert!(result.is_err(), "{result:?}");
        }
    }
    assert!(memory_peak() - before < 200_000_000);
}

#[test]
fn a_connection_may_end_at_any_octet() {
    let whole = "*2\r\n$4\r\n1700\r\n$1\r\n0\r\n$4\r\n11-7\r\n*-1\r\n";
    for len in 0..whole.len() {
        let part = whole[..len].to_owned();
        let url = false_server(move |command| match command[0].as_str() {
            "TIME" => Some(part.clone()),
            // The connection ends.
            "XADD" => None,
            _ => usual(command),
        });
        assert_fails!(append(&mut bus(&url), &[b"a"]), Away);
    }
}

#[test]
fn a_server_that_trickles_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut settings = settings(&format!("redis://{}", listener.local_addr().unwrap()));
    settings.read_timeout = Duration::from_millis(100);
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        while stream.write_all(b"+").is_ok() {
            thread::sleep(Duration::from_millis(20));
        }
    });
    let text = assert_fails!(RedisBus::new(settings, Clock::start()).unwrap().stream_state(KEY), Away);
    assert!(text.contains("no answer in time"), "{text}");
}

#[test]
fn an_old_server_is_named() {
    for (version, is_old) in [
        ("6.0.16", true),
        ("5.0.0", true),
        ("6.2.0", false),
        ("7.2.4", false),
        ("10.0.1", false),
        ("x", true),
    ] {
        let info = format!("redis_version:{version}\r\n");
        let mut bus = bus(&answers("INFO", format!("${}\r\n{info}\r\n", info.len())));
        if is_old {
            let text = assert_fails!(append(&mut bus, &[]), Unsuitable);
            assert!(text.contains(version), "{text}");
        } else {
            append(&mut bus, &[]).unwrap();
        }
    }
}

#[test]
fn errors_of_a_server_that_cannot_answer_are_no_refusals() {
    for text in ["LOADING Redis is loading the dataset", "MISCONF cannot persist", "CLUSTERDOWN no slots"] {
        let mut bus = bus(&answers("XADD", format!("-{text}\r\n")));
        assert!(assert_fails!(append(&mut bus, &[b"a"]), Away).ends_with(text));
    }
}

#[test]
fn redirections_in_a_circle_end() {
    let connects = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connects);
    let mut bus = bus(&false_server(move |command| {
        counted.fetch_add(usize::from(command[0] == "CLIENT"), Ordering::Relaxed);
        if command[0] == "XADD" { Some("-MOVED 7 :1\r\n".to_owned()) } else { usual(command) }
    }));
    // Nobody listens there.
    assert!(assert_fails!(append(&mut bus, &[b"a"]), Away).contains("refused"));
    assert_eq!(connects.load(Ordering::Relaxed), 1);

    let circle = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = circle.local_addr().unwrap().port();
    drop(circle);
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            counted.fetch_add(1, Ordering::Relaxed);
            serve(stream, &|command| {
                let moved = format!("-MOVED 7 :{port}\r\n");
                if command[0] == "XADD" { Some(moved) } else { usual(command) }
            });
        }
    });
    let mut bus = crate::bus(&format!("redis://127.0.0.1:{port}"));
    let text = assert_fails!(append(&mut bus, &[b"a"]), Away);
    assert!(text.contains("more than 5 redirections"), "{text}");
    assert_eq!(count.load(Ordering::Relaxed), 6);
}

#[test]
fn an_exchange_is_not_repeated_once_something_was_appended() {
    let target = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&target);
    let to = false_server(move |command| {
        counted.fetch_add(usize::from(command[0] == "XADD"), Ordering::Relaxed);
        usual(command)
    });
    let to = to.trim_start_matches("redis://").to_owned();
    let mut bus = bus(&false_server(move |command| match command {
        [name, .., entry] if name == "XADD" && entry == "second" => Some(format!("-MOVED 7 {to}\r\n")),
        _ => usual(command),
    }));
    assert!(assert_fails!(append(&mut bus, &[b"first", b"second"]), Away).contains("has moved"));
    assert_eq!(target.load(Ordering::Relaxed), 0);
    append(&mut bus, &[b"third"]).unwrap();
    assert_eq!(target.load(Ordering::Relaxed), 1);
}
