//! What no compiler checks: boundaries between crates, sizes of files, no path of a machine in the tree.

use std::path::{Path, PathBuf};
use std::process::Command;

const CRATES: [&str; 6] = ["src", "state", "udp", "gateway", "tools", "tests"];

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns every file below `folder` with one of these endings, except build output.
pub(crate) fn files(folder: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir()
            && name != "target"
            && name != "corpus"
            && name != "artifacts"
            && !name.starts_with('.')
        {
            found.extend(files(&path, endings));
        } else if endings.iter().any(|ending| name.ends_with(ending)) {
            found.push(path);
        }
    }
    found
}

fn rust_files() -> Vec<(PathBuf, String)> {
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        (path, text)
    };
    CRATES.iter().flat_map(|crate_folder| files(&root().join(crate_folder), &[".rs"])).map(read).collect()
}

/// Returns the dependencies in a crate's Cargo.toml.
fn dependencies(crate_folder: &str) -> Vec<String> {
    let manifest = std::fs::read_to_string(root().join(crate_folder).join("Cargo.toml")).unwrap();
    let section = manifest.split("[dependencies]").nth(1).unwrap();
    let names = section.lines().take_while(|line| !line.starts_with('['));
    names.filter_map(|line| line.split(['.', ' ', '=']).next()).map(str::to_owned).collect()
}

#[test]
fn dependencies_between_crates_go_one_way() {
    let workspace_dependencies = |crate_folder: &str| -> Vec<String> {
        dependencies(crate_folder).into_iter().filter(|name| name.starts_with("hayate-")).collect()
    };
    assert_eq!(workspace_dependencies("state"), [""; 0]);
    assert_eq!(workspace_dependencies("udp"), ["hayate-state"]);
    assert_eq!(workspace_dependencies("gateway"), ["hayate-state"]);
}

#[test]
fn layers_of_a_server_use_only_the_layers_before_them() {
    for (layer, forbidden) in [
        ("udp/src/wire", &["crate::engine", "crate::server", "crate::connection_id", "mio", "libc"][..]),
        ("udp/src/engine.rs", &["crate::server", "mio::", "libc::", "socket2"]),
        ("gateway/src/wire", &["crate::engine", "crate::server", "hyper", "tokio"]),
        ("gateway/src/engine", &["crate::server", "hyper::", "tokio"]),
    ] {
        let layer_files = rust_files().into_iter().filter(|(path, _)| path.starts_with(root().join(layer)));
        for (path, text) in layer_files {
            let uses = text
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .collect::<Vec<_>>()
                .join("\n");
            let found = forbidden.iter().find(|name| uses.contains(**name));
            assert_eq!(found, None, "in {}", path.display());
        }
    }
}

#[test]
fn crates_have_only_the_dependencies_that_they_may_have() {
    for (crate_folder, forbidden) in [
        ("state", &["mio", "socket2", "hyper", "tokio", "clap", "anyhow"][..]),
        ("udp", &["hyper", "tokio", "clap", "anyhow", "serde_json"]),
        ("gateway", &["mio", "clap", "anyhow", "libc"]),
        ("tools", &["hyper", "tokio"]),
    ] {
        let dependencies = dependencies(crate_folder);
        let found = forbidden.iter().find(|one| dependencies.iter().any(|name| name == *one));
        assert_eq!(found, None, "in {crate_folder}");
    }
}

#[test]
fn unsafe_code_is_in_the_three_modules_that_need_it() {
    let word = concat!("unsafe", " {");
    let owners: Vec<_> = rust_files().into_iter().filter(|(_, text)| text.contains(word)).collect();
    let names: Vec<_> =
        owners.iter().map(|(path, _)| path.strip_prefix(root()).unwrap().to_owned()).collect();
    assert_eq!(
        names,
        ["src/process/malloc_trim.rs", "state/src/table/prefetch.rs", "udp/src/server/batch.rs"]
            .map(Path::new)
    );
}

#[test]
fn files_and_lines_are_short_enough() {
    for (path, text) in rust_files() {
        let lines = text.lines().count();
        assert!(lines <= 500, "{} has {lines} lines", path.display());
        for (index, line) in text.lines().enumerate() {
            let columns = line.chars().count();
            assert!(columns <= 110, "{}:{} has {columns} columns", path.display(), index + 1);
        }
    }
}

#[test]
fn no_mark_of_unfinished_work_is_left() {
    let marks = [
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
        concat!("FIX", "ME"),
        concat!("#[ign", "ore"),
    ];
    for (path, text) in rust_files() {
        let mark = marks.iter().find(|mark| text.contains(**mark));
        assert_eq!(mark, None, "in {}", path.display());
    }
}

#[test]
fn no_path_of_a_machine_is_in_the_tree() {
    let endings =
        [".rs", ".md", ".toml", ".json", ".sh", ".py", ".mjs", ".in", "Makefile", "setup", "run", "transfer"];
    let marks = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];
    for path in files(root(), &endings) {
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let mark = marks.iter().find(|mark| text.contains(**mark));
        assert_eq!(mark, None, "in {}", path.display());
    }
}

/// Statements about the tables of a site stand in one place, behind one description of the tables; the schema
/// makes them.
#[test]
fn sql_about_the_tables_of_a_site_is_in_one_place() {
    let store = root().join("state/src/store");
    let described = std::fs::read_to_string(store.join("site_tables.rs")).unwrap();
    let tables: Vec<_> =
        described.split("table: \"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert_eq!(tables.len(), 7, "{tables:?}");
    let is_apart = |path: &Path| {
        let description_and_schema = ["site_tables.rs", "schema.rs"].map(|name| store.join(name));
        path.starts_with(store.join("site_sql"))
            || description_and_schema.iter().any(|apart| path == apart)
            || path.ends_with("tests.rs")
    };
    for (path, text) in rust_files() {
        let relative = path.strip_prefix(root()).unwrap();
        if !(relative.starts_with("src") || relative.starts_with("state/src")) || is_apart(&path) {
            continue;
        }
        let words: Vec<_> = text.split(|letter: char| !letter.is_alphanumeric() && letter != '_').collect();
        let words: Vec<_> = words.into_iter().filter(|word| !word.is_empty()).collect();
        let found = words.windows(2).find(|two| {
            ["FROM", "UPDATE", "INTO", "JOIN", "TABLE"].contains(&two[0]) && tables.contains(&two[1])
        });
        assert_eq!(found, None, "in {}", path.display());
    }
}

/// What a compiler, an interpreter or an editor has made has no place in the tree: it is either binary, or
/// has one of these names.
#[test]
fn no_built_or_cached_file_is_in_the_tree() {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output();
    // Outside a checkout nobody can commit one.
    let Some(listed) = listed.ok().filter(|listed| listed.status.success()) else { return };
    let names = String::from_utf8(listed.stdout).unwrap();
    let names: Vec<_> = names.split_terminator('\0').collect();
    assert!(names.contains(&"tests/tidy.rs"), "{names:?}");
    let is_cached = |name: &&str| {
        let endings = [".pyc", ".orig", ".rej", ".swp", ".log", ".profraw", "~"];
        endings.iter().any(|ending| name.ends_with(ending)) || name.split('/').any(|part| part == "target")
    };
    let is_binary = |name: &&str| {
        !name.starts_with("tests/kit/fixtures/")
            && std::fs::read(root().join(name)).is_ok_and(|octets| octets.contains(&0))
    };
    let found: Vec<_> = names.into_iter().filter(|name| is_cached(name) || is_binary(name)).collect();
    assert_eq!(found, [""; 0]);
}

#[test]
fn time_is_read_in_one_place() {
    let word = concat!("Instant::", "now");
    let readers: Vec<_> = rust_files()
        .into_iter()
        .filter(|(path, text)| !path.starts_with(root().join("tests")) && text.contains(word))
        .map(|(path, _)| path.strip_prefix(root()).unwrap().to_owned())
        .filter(|path| !path.starts_with("tools"))
        .collect();
    assert_eq!(readers, [Path::new("state/src/clock.rs")]);
}
