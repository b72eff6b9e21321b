//! The layout of the crates: unique type names, maps that name every module, paths in ARCHITECTURE that
//! exist, and no circular imports.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use syn::visit::Visit;

use crate::tidy::{files, root};

const CRATES: [&str; 5] = ["state/src", "udp/src", "gateway/src", "src", "tools/src"];

/// Names that may occur more than once in a crate, and why.
const SAME_NAMES: [(&str, &str); 1] = [("Err", "the associated type of `FromStr`")];

/// The path of a module in its crate, outermost first; empty for the crate itself.
type Module = Vec<String>;

struct SourceFile {
    path: PathBuf,
    text: String,
    syntax: syn::File,
}

/// Returns the files of a crate by module, except tests.
fn modules(source: &str) -> BTreeMap<Module, SourceFile> {
    let folder = root().join(source);
    let mut modules = BTreeMap::new();
    for path in files(&folder, &[".rs"]) {
        let relative = path.strip_prefix(&folder).unwrap().with_extension("");
        let mut module: Module = relative.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
        module.pop_if(|last| ["mod", "lib", "main"].contains(&last.as_str()));
        if !module.iter().any(|part| part == "tests" || part.ends_with("_tests")) {
            let text = std::fs::read_to_string(&path).unwrap();
            let syntax = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            modules.insert(module, SourceFile { path, text, syntax });
        }
    }
    modules
}

/// The types that a file defines and the paths that it names, without test code.
#[derive(Default)]
struct Collector {
    types: Vec<String>,
    paths: Vec<Vec<String>>,
}

impl Collector {
    fn of(file: &SourceFile) -> Self {
        let mut collector = Self::default();
        collector.visit_file(&file.syntax);
        collector
    }

    fn add_use(&mut self, tree: &syn::UseTree, prefix: &[String]) {
        let with = |name: &syn::Ident| [prefix, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.add_use(&path.tree, &with(&path.ident)),
            syn::UseTree::Name(name) => self.paths.push(with(&name.ident)),
            syn::UseTree::Rename(rename) => self.paths.push(with(&rename.ident)),
            syn::UseTree::Glob(_) => self.paths.push(prefix.to_vec()),
            syn::UseTree::Group(group) => group.items.iter().for_each(|item| self.add_use(item, prefix)),
        }
    }
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string() == "test",
        syn::Meta::Path(path) => path.is_ident("test"),
        syn::Meta::NameValue(_) => false,
    })
}

impl Visit<'_> for Collector {
    fn visit_item(&mut self, item: &syn::Item) {
        let (attributes, name) = match item {
            syn::Item::Struct(item) => (&item.attrs, Some(&item.ident)),
            syn::Item::Enum(item) => (&item.attrs, Some(&item.ident)),
            syn::Item::Trait(item) => (&item.attrs, Some(&item.ident)),
            syn::Item::Type(item) => (&item.attrs, Some(&item.ident)),
            syn::Item::Mod(item) => (&item.attrs, None),
            syn::Item::Fn(item) => (&item.attrs, None),
            syn::Item::Impl(item) => (&item.attrs, None),
            syn::Item::Use(item) => (&item.attrs, None),
            _ => return syn::visit::visit_item(self, item),
        };
        if is_test(attributes) {
            return;
        }
        self.types.extend(name.map(ToString::to_string));
        if let syn::Item::Use(item) = item {
            self.add_use(&item.tree, &[]);
        }
        syn::visit::visit_item(self, item);
    }

    fn visit_path(&mut self, path: &syn::Path) {
        self.paths.push(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        syn::visit::visit_path(self, path);
    }
}

#[test]
fn type_names_are_unique_within_a_crate() {
    for source in CRATES {
        let mut owners: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
        for file in modules(source).values() {
            for name in Collector::of(file).types {
                owners.entry(name).or_default().push(file.path.strip_prefix(root()).unwrap().to_owned());
            }
        }
        owners.retain(|name, paths| paths.len() > 1 && !SAME_NAMES.iter().any(|(same, _)| same == name));
        assert!(owners.is_empty(), "defined twice or more: {owners:#?}");
    }
}

#[test]
fn every_module_is_in_the_map_of_its_parent() {
    let mut missing = Vec::new();
    for source in CRATES {
        for file in modules(source).values() {
            let map: String = file.text.lines().take_while(|line| line.starts_with("//!")).collect();
            for item in &file.syntax.items {
                let syn::Item::Mod(item) = item else { continue };
                let name = item.ident.to_string();
                let in_map = map.contains(&format!("`{name}`")) || map.contains(&format!("::{name}`"));
                let inline = item.content.is_some() || is_test(&item.attrs);
                if !inline && !in_map {
                    missing.push(format!("{}: `{name}`", file.path.strip_prefix(root()).unwrap().display()));
                }
            }
        }
    }
    assert!(missing.is_empty(), "modules that the table of their parent does not name: {missing:#?}");
}

/// Returns the module that a path leads to, if it is in the same crate.
fn target(from: &Module, path: &[String], modules: &BTreeMap<Module, SourceFile>) -> Option<Module> {
    let first = path.first()?;
    let mut module = match first.as_str() {
        "crate" => Vec::new(),
        "self" | "super" => from.clone(),
        // A module beside the file's own items: a child.
        _ => [from.as_slice(), std::slice::from_ref(first)].concat(),
    };
    for part in path {
        match part.as_str() {
            "crate" | "self" => {}
            "super" => _ = module.pop(),
            part if part == first => {}
            part => module.push(part.to_owned()),
        }
    }
    while !modules.contains_key(&module) {
        module.pop()?;
    }
    Some(module)
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let mut circles = Vec::new();
    for source in CRATES {
        let modules = modules(source);
        let mut uses: BTreeMap<Module, BTreeSet<Module>> = BTreeMap::new();
        for (module, file) in &modules {
            let paths = Collector::of(file).paths;
            let targets = paths.iter().filter_map(|path| target(module, path, &modules));
            // A module and the modules inside it count as one: only circles among others are forbidden.
            let others = targets.filter(|other| !other.starts_with(module) && !module.starts_with(other));
            uses.insert(module.clone(), others.collect());
        }
        // A module that uses none of those left cannot be in a circle.
        loop {
            let before = uses.len();
            let left: BTreeSet<Module> = uses.keys().cloned().collect();
            uses.retain(|_, others| others.iter().any(|other| left.contains(other)));
            if uses.len() == before {
                break;
            }
        }
        let circle = first_circle(&uses).iter().map(|module| module.join("/")).collect::<Vec<_>>();
        if !circle.is_empty() {
            circles.push(format!("{source}: {}", circle.join(" -> ")));
        }
    }
    assert!(circles.is_empty(), "{circles:#?}");
}

/// Returns a circle: modules of which each uses the next, and the last uses the first; empty if there is
/// none.
fn first_circle(uses: &BTreeMap<Module, BTreeSet<Module>>) -> Vec<Module> {
    let Some(mut current) = uses.keys().next() else { return Vec::new() };
    let mut path: Vec<Module> = Vec::new();
    while !path.contains(current) {
        path.push(current.clone());
        // Every module that is left uses one that is left.
        current = uses.get(current).unwrap().iter().find(|other| uses.contains_key(*other)).unwrap();
    }
    path.split_off(path.iter().position(|module| module == current).unwrap())
}

#[test]
fn every_path_in_the_architecture_exists_and_its_finder_names_each_once() {
    let document = std::fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    let mut rows: BTreeMap<&str, usize> = BTreeMap::new();
    for line in document.lines() {
        for path in line.split('`').skip(1).step_by(2).filter(|word| is_path(word)) {
            let exists = root().join(path).exists();
            assert!(exists, "ARCHITECTURE.md names {path}, which does not exist");
            *rows.entry(path).or_default() += usize::from(line.starts_with('|'));
        }
    }
    let twice: Vec<_> = rows.into_iter().filter(|(_, count)| *count > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
}

/// Whether a word is a path from the root of the repository, without a pattern.
fn is_path(word: &str) -> bool {
    let folders = ["src/", "state/", "udp/", "gateway/", "tools/", "tests/", "docs/", "dist/"];
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-".contains(letter);
    folders.iter().any(|folder| word.starts_with(folder)) && word.chars().all(plain)
}
