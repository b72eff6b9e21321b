//! What a chain of hooks costs: announces that none, one, two or three of them see, and let pass.

use std::hint::black_box;
use std::sync::Arc;

use criterion::Criterion;
use hayate_state::admission::hooks::jwk::{Keyring, KeyringSource};
use hayate_state::admission::hooks::{HookInputs, Hooks, RequestUrl};
use hayate_state::clock::Now;
use hayate_state::{Handout, Policy, Published, Swarms, Tracker};
use serde_json::{Map, Value, json};

use crate::kit;

struct NoKeys;

impl KeyringSource for NoKeys {
    fn keyring(&self, _: &str, _: u64) -> Result<Arc<Keyring>, String> {
        Err("no hook of this bench has keys".to_owned())
    }
}

fn tracker(hooks: &[(&str, Map<String, Value>)]) -> Tracker {
    let entries = hooks.iter().map(|(name, options)| (*name, options));
    let Ok(hooks) = Hooks::build(entries, std::iter::empty(), HookInputs { keyrings: &NoKeys }) else {
        panic!("the hooks of this bench are good");
    };
    Tracker::new(Swarms::new(0), &Published::new(Policy { hooks, ..Policy::default() }), 7)
}

/// The reference's own hooks, with a thousand entries where there is a list. The last one takes a step or two
/// of its generator for each announce.
fn known() -> [(&'static str, Map<String, Value>); 3] {
    let clients: Vec<_> = (0..1000).map(|number| format!("AB{number:04}")).collect();
    let torrents: Vec<_> = (0..1000).map(|number| format!("{number:040x}")).collect();
    let options = [
        json!({"blacklist": clients}),
        json!({"blacklist": torrents}),
        json!({"modify_response_probability": 0.5, "max_increase_delta": 60}),
    ];
    let mut options = options.into_iter().map(|options| options.as_object().cloned().unwrap_or_default());
    ["client approval", "torrent approval", "interval variation"]
        .map(|name| (name, options.next().unwrap_or_default()))
}

/// One peer that announces again and again, and is handed no peers.
pub(crate) fn chains(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hooks");
    let known = known();
    let chains = (0..=known.len()).map(|count| (format!("chain/{count}"), &known[..count]));
    let alone = known.chunks(1).map(|one| (format!("alone/{}", one[0].0.replace(' ', "-")), one));
    let announce = kit::announce(kit::info_hash(7), 7, 1, 0);
    let now = Now { tick: kit::NOW, ..Now::at(0) };
    for (name, hooks) in chains.chain(alone) {
        group.bench_function(name, |bencher| {
            let mut tracker = tracker(hooks);
            bencher.iter(|| {
                let request_url = RequestUrl::parse(announce.address, b"/announce?key=7");
                let mut handout = Handout::new(&mut [], &mut []);
                black_box(
                    tracker.announce_with_hooks(now, black_box(&announce), request_url, &mut handout).is_ok(),
                )
            });
        });
    }
    group.finish();
}
