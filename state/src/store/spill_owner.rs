//! Whose rows wait in a spill folder. Each node of a cluster numbers its rows by itself, so those of one node
//! must not be sent under the name of another: the database would take them for rows that it has already.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

/// The file in the folder that holds the name of the node.
const FILE: &str = "node";

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpillOwnerError {
    /// It cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Rows of another node wait in it.
    #[error(
        "{folder} holds rows of {}; start once as that node, without other changes, so that the database \
         gets them", owner_text(.owner)
    )]
    OfAnotherNode {
        /// The folder.
        folder: String,
        /// The name of the node; empty for a tracker without a cluster.
        owner: String,
    },
}

fn owner_text(owner: &str) -> String {
    if owner.is_empty() { "a tracker without cluster.redis.url".into() } else { format!("the node {owner}") }
}

/// Notes that the rows in the folder are those of `node`; an empty name is a tracker without a cluster.
///
/// # Errors
/// Fails when rows of another node wait there, or the folder cannot be read or written.
pub fn claim_spill(folder: &Path, node: &str) -> Result<(), SpillOwnerError> {
    let file = folder.join(FILE);
    let owner = match fs::read_to_string(&file) {
        Ok(owner) => owner.trim_end().to_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error.into()),
    };
    if owner == node {
        return Ok(());
    }
    if holds_rows(folder)? {
        return Err(SpillOwnerError::OfAnotherNode { folder: folder.display().to_string(), owner });
    }
    fs::create_dir_all(folder)?;
    fs::write(file, node)?;
    Ok(())
}

fn holds_rows(folder: &Path) -> io::Result<bool> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let is_rows = entry.path().extension().is_some_and(|extension| extension == "spill");
        if is_rows && entry.metadata()?.len() > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_another_node_are_refused_until_they_are_gone() {
        let folder = tempfile::tempdir().unwrap();
        let spill = folder.path().join("spill");
        claim_spill(&spill, "").unwrap();
        assert!(!spill.exists());
        claim_spill(&spill, "a").unwrap();
        fs::write(spill.join("completed-7.spill"), "rows").unwrap();
        claim_spill(&spill, "a").unwrap();
        let refused = claim_spill(&spill, "b").unwrap_err().to_string();
        assert!(refused.contains("the node a"), "{refused}");
        assert!(claim_spill(&spill, "").is_err());
        fs::write(spill.join("completed-7.spill"), "").unwrap();
        claim_spill(&spill, "b").unwrap();
        claim_spill(&spill, "").unwrap();
        fs::write(spill.join("completed-8.spill"), "rows").unwrap();
        let refused = claim_spill(&spill, "b").unwrap_err().to_string();
        assert!(refused.contains("without cluster.redis.url"), "{refused}");
    }
}
