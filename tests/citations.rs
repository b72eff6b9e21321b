//! Every document that a comment, a test or a page cites is in the repository, and so is its anchor.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::tidy::{files, root};

/// Endings of files that may cite a document: all text files.
const CITING: &[&str] =
    &[".rs", ".md", ".toml", ".json", ".yaml", ".py", ".mjs", ".swarm", ".sql", ".txt", "Makefile", "setup"];
/// The ending of a document.
const ENDING: &str = ".md";

/// A cited document, perhaps with an anchor in it. An empty name means the citing text itself.
#[derive(Debug, PartialEq, Eq)]
struct Citation {
    name: String,
    anchor: Option<String>,
}

fn is_of_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "_-./".contains(letter)
}

/// Returns the anchor after a `#` at the beginning of `text`.
fn anchor(text: &str) -> Option<String> {
    let text = text.strip_prefix('#')?;
    let anchor: String = text.chars().take_while(|c| c.is_alphanumeric() || "-_".contains(*c)).collect();
    (!anchor.is_empty()).then_some(anchor)
}

/// Returns what a text cites, in any order, without addresses on the web.
fn citations(text: &str) -> Vec<Citation> {
    let named = text.match_indices(ENDING).filter_map(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + ENDING.len()..]);
        let name = before.rsplit(|letter| !is_of_name(letter)).next()?;
        let ends = !after.starts_with(|letter: char| letter.is_alphanumeric() || letter == '_');
        let is_name = ends && !name.is_empty() && !name.starts_with("//");
        is_name.then(|| Citation { name: format!("{name}{ENDING}"), anchor: anchor(after) })
    });
    let own = text
        .match_indices("](#")
        .filter_map(|(at, _)| Some(Citation { name: String::new(), anchor: Some(anchor(&text[at + 2..])?) }));
    named.chain(own).collect()
}

/// Returns the document that `cited` means in the file `from`: beside it, from the root, or from `docs`.
fn document(from: &Path, cited: &str) -> Option<PathBuf> {
    if cited.is_empty() {
        return Some(from.to_owned());
    }
    let folders = [from.parent()?.to_owned(), root().to_owned(), root().join("docs")];
    folders.into_iter().map(|folder| folder.join(cited)).find(|path| path.is_file())
}

/// Returns the anchors of a page: its headings, as GitHub makes anchors of them.
fn anchors(page: &str) -> HashSet<String> {
    let mut in_code = false;
    let headings = page.lines().filter(|line| {
        in_code ^= line.starts_with("```");
        !in_code && line.starts_with('#')
    });
    let anchor = |heading: &str| {
        let words = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = words.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect()
    };
    headings.map(anchor).collect()
}

/// Returns the error of a citation in the file `from`: its document or anchor does not exist.
fn error_of(from: &Path, citation: &Citation) -> Option<String> {
    let Citation { name, anchor } = citation;
    let Some(path) = document(from, name) else { return Some(format!("{name} is not in the repository")) };
    let anchor = anchor.as_ref()?;
    let known = anchors(&std::fs::read_to_string(path).unwrap()).contains(anchor);
    (!known).then(|| format!("nothing has the anchor {name}#{anchor}"))
}

#[test]
fn every_document_and_anchor_that_is_cited_is_in_the_repository() {
    let (mut errors, mut seen) = (Vec::new(), 0);
    // This file has examples of citations that are wrong.
    for path in files(root(), CITING).into_iter().filter(|path| !path.ends_with("tests/citations.rs")) {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        for citation in citations(&text) {
            seen += 1;
            let error = error_of(&path, &citation);
            errors.extend(error.map(|what| format!("{}: {what}", path.display())));
        }
    }
    assert!(errors.is_empty(), "{errors:#?}");
    assert!(seen > 300, "only {seen} citations were found");
}

#[test]
fn rules_have_headings_of_their_own() {
    for path in files(&root().join("docs/rules"), &[ENDING]) {
        let page = std::fs::read_to_string(&path).unwrap();
        let headings = page.lines().filter(|line| line.starts_with('#')).count();
        assert_eq!(anchors(&page).len(), headings, "two rules of {} have one anchor", path.display());
    }
}

#[test]
fn no_rule_is_cited_by_a_number() {
    let word = concat!("ru", "ling ");
    for path in files(root(), CITING) {
        let text = std::fs::read_to_string(&path).unwrap_or_default().to_lowercase();
        let mut behind = text.match_indices(word).map(|(at, _)| &text[at + word.len()..]);
        let numbered = behind.any(|text| text.starts_with(|letter: char| letter.is_ascii_digit()));
        assert!(!numbered, "in {}", path.display());
    }
}

#[test]
fn citations_are_found_and_missing_targets_are_reported() {
    let citation = |name: &str, anchor: Option<&str>| Citation {
        name: name.to_owned(),
        anchor: anchor.map(str::to_owned),
    };
    let text =
        "see `rules/udp.md#left`, [x](../ADMIN.md), https://example.org/a.md, .md, a.mdx, [y](#here-too).";
    let expected = [
        citation("rules/udp.md", Some("left")),
        citation("../ADMIN.md", None),
        citation("", Some("here-too")),
    ];
    assert_eq!(citations(text), expected);
    let page = "# A page\n## `left` = 0, or not\n```\n# no heading\n```\n";
    assert_eq!(anchors(page), ["a-page", "left--0-or-not"].map(str::to_owned).into());
    let from = root().join("udp/src/lib.rs");
    assert_eq!(error_of(&from, &citation("rules/udp.md", Some("left"))), None);
    assert!(error_of(&from, &citation("rules/udp.md", Some("nowhere"))).is_some());
    assert!(error_of(&from, &citation("nowhere.md", None)).is_some());
}
