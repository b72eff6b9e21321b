//! YAML 1.1 as a tree in which every scalar is as it was written: what `010203`, `on` or `1800` means depends
//! on its key, and only the reader of the key knows.

use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle};

/// Most values of one file; those of aliases are counted each time.
const NODES_MAX: usize = 4_000_000;
/// Most keys of one block.
const KEYS_MAX: usize = 1000;
/// Deepest nesting of blocks and lists.
const DEPTH_MAX: usize = 64;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    /// A word. It is `plain` if it was written without quotes.
    Scalar { text: String, plain: bool },
    /// A list.
    List(Vec<Node>),
    /// A block of keys, in their order; no key occurs twice.
    Block(Vec<(String, Node)>),
}

impl Node {
    const NULL: Self = Self::Scalar { text: String::new(), plain: true };

    /// Whether this is a null, in one of the ways of writing it.
    pub(super) fn is_null(&self) -> bool {
        matches!(self, Self::Scalar { text, plain: true }
            if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    fn size(&self) -> usize {
        match self {
            Self::Scalar { .. } => 1,
            Self::List(list) => 1 + list.iter().map(Self::size).sum::<usize>(),
            Self::Block(block) => 1 + block.iter().map(|(_, node)| node.size()).sum::<usize>(),
        }
    }
}

/// Reads the first document. Errors name the line and never quote a value.
pub(super) fn parse(text: &str) -> Result<Node, String> {
    let mut builder = TreeBuilder::default();
    for next in Parser::new_from_str(text) {
        let (event, span) = next.map_err(|error| error.to_string())?;
        if matches!(event, Event::DocumentEnd) {
            break;
        }
        builder.handle_event(event).map_err(|error| format!("{error} at line {}", span.start.line()))?;
    }
    Ok(builder.root.unwrap_or(Node::NULL))
}

enum OpenNode {
    List(Vec<Node>),
    Block(Vec<(String, Node)>, Option<String>),
}

#[derive(Default)]
struct TreeBuilder {
    open: Vec<(OpenNode, usize)>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    root: Option<Node>,
}

impl TreeBuilder {
    fn handle_event(&mut self, event: Event<'_>) -> Result<(), String> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let text_by_tag = tag.is_some_and(|tag| tag.is_yaml_core_schema_tag("str"));
                let plain = style == ScalarStyle::Plain && !text_by_tag;
                self.add_node(Node::Scalar { text: text.into_owned(), plain }, anchor)
            }
            Event::SequenceStart(_, anchor, _) => self.begin_node(OpenNode::List(Vec::new()), anchor),
            Event::MappingStart(_, anchor, _) => self.begin_node(OpenNode::Block(Vec::new(), None), anchor),
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some((OpenNode::List(list), anchor)) => self.add_node(Node::List(list), anchor),
                Some((OpenNode::Block(block, _), anchor)) => {
                    self.add_node(Node::Block(merged(block)?), anchor)
                }
                None => Ok(()),
            },
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned().ok_or("an alias within its own anchor")?;
                self.count_nodes(node.size())?;
                self.add_node(node, 0)
            }
            _ => Ok(()),
        }
    }

    fn begin_node(&mut self, open: OpenNode, anchor: usize) -> Result<(), String> {
        if self.open.len() >= DEPTH_MAX {
            return Err(format!("more than {DEPTH_MAX} blocks and lists within one another"));
        }
        self.open.push((open, anchor));
        Ok(())
    }

    fn count_nodes(&mut self, nodes: usize) -> Result<(), String> {
        self.nodes += nodes;
        if self.nodes > NODES_MAX { Err(format!("more than {NODES_MAX} values")) } else { Ok(()) }
    }

    fn add_node(&mut self, node: Node, anchor: usize) -> Result<(), String> {
        self.count_nodes(1)?;
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some((OpenNode::List(list), _)) => list.push(node),
            Some((OpenNode::Block(block, key), _)) => match (key.take(), node) {
                (Some(name), node) => block.push((name, node)),
                (None, Node::Scalar { text, .. }) => {
                    if block.len() >= KEYS_MAX {
                        return Err(format!("more than {KEYS_MAX} keys in a block"));
                    }
                    if text != "<<" && block.iter().any(|(name, _)| *name == text) {
                        return Err(format!("the key `{text}` occurs twice"));
                    }
                    *key = Some(text);
                }
                (None, _) => return Err("a key that is not a word".into()),
            },
        }
        Ok(())
    }
}

/// Returns a block with the keys of the blocks that `<<` names, unless it has them itself.
fn merged(block: Vec<(String, Node)>) -> Result<Vec<(String, Node)>, String> {
    let (merges, mut block): (Vec<_>, Vec<_>) = block.into_iter().partition(|(name, _)| name == "<<");
    let sources = merges.into_iter().flat_map(|(_, node)| match node {
        Node::List(list) => list,
        one => vec![one],
    });
    for source in sources {
        let Node::Block(source) = source else { return Err("`<<` without a block".into()) };
        for (name, node) in source {
            if !block.iter().any(|(known, _)| *known == name) {
                block.push((name, node));
            }
        }
    }
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &str) -> Node {
        Node::Scalar { text: text.into(), plain: true }
    }

    fn quoted(text: &str) -> Node {
        Node::Scalar { text: text.into(), plain: false }
    }

    #[test]
    fn scalars_are_as_they_were_written() {
        let node = parse("---\na: [010203, on, 0x1F, '7', \"on\", !!str 5]\nb:\nc: {}\n").unwrap();
        let list = ["010203", "on", "0x1F"].map(word).into_iter().chain(["7", "on", "5"].map(quoted));
        let expected = [
            ("a".to_owned(), Node::List(list.collect())),
            ("b".to_owned(), word("~")),
            ("c".to_owned(), Node::Block(Vec::new())),
        ];
        assert_eq!(node, Node::Block(expected.to_vec()));
    }

    #[test]
    fn aliases_and_merges_are_followed() {
        let node = parse("x: &x {p: 7, q: 11}\ny: {<<: *x, q: 13}\nz: *x\n").unwrap();
        let Node::Block(block) = node else { panic!("a block") };
        let pair = |name: &str, text| (name.to_owned(), word(text));
        assert_eq!(block[1].1, Node::Block(vec![pair("q", "13"), pair("p", "7")]));
        assert_eq!(block[2].1, Node::Block(vec![pair("p", "7"), pair("q", "11")]));
    }

    #[test]
    fn only_the_first_document_counts_and_none_is_null() {
        assert_eq!(parse("a\n---\nb: [\n").unwrap(), word("a"));
        for text in ["", "---\n", "# nothing\n", "~"] {
            assert!(parse(text).unwrap().is_null(), "{text}");
        }
    }

    #[test]
    fn mistakes_name_the_line() {
        for (text, words) in [
            ("a: 1\na: 2\n", "the key `a` occurs twice at line 2"),
            ("? [a]\n: b\n", "a key that is not a word at line 1"),
            ("a:\n  - b\n c: [", "line "),
            ("a: *b\n", "line 1"),
            ("a: {<<: 7}\n", "`<<` without a block"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn a_long_list_deep_in_a_file_is_read() {
        let entries = "        - x\n".repeat(400_000);
        let text = format!("a:\n  b:\n  - c:\n      d:\n{entries}");
        assert_eq!(parse(&text).unwrap().size(), 400_000 + 6);
    }

    #[test]
    fn what_grows_without_bound_is_refused() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let below = format!("*a{}", level - 1);
            bomb += &format!("a{level}: &a{level} [{}]\n", [below.as_str(); 10].join(", "));
        }
        assert!(parse(&bomb).unwrap_err().contains("more than 4000000 values"));
        let wide: String = (0..1001).map(|key| format!("k{key}: 1\n")).collect();
        assert_eq!(parse(&wide).unwrap_err(), "more than 1000 keys in a block at line 1001");
        let deep = format!("{}{}", "[".repeat(65), "]".repeat(65));
        assert!(parse(&deep).unwrap_err().contains("within one another"));
    }
}
