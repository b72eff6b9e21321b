//! Freeleech of all torrents and of groups, and hit-and-runs.

use super::sql::{AdminTransaction, CommandResult, missing_torrent, multiplier_value};
use super::{AdminOutcome, SiteChange};
use crate::ids::InfoHash;
use crate::snapshot::site::{Group, Multipliers};
use crate::store::site_sql::edits;
use crate::store::{SqlValue, StoreError};

const GLOBAL: &str = "global_freeleech";

impl AdminTransaction<'_> {
    pub(super) fn global_freeleech(&mut self, wanted: bool) -> CommandResult {
        let known = self.tables.query_rows(&edits::GLOBAL_FREELEECH.text(), &[GLOBAL.into()])?;
        let setting = SqlValue::from(wanted);
        let word = match known.first().map(Vec::as_slice) {
            Some([same]) if *same == setting => "unchanged",
            Some(_) => {
                self.tables.run_statement(&edits::SET_GLOBAL_FREELEECH.text(), &[setting, GLOBAL.into()])?;
                "changed"
            }
            None => {
                self.tables.run_statement(&edits::ADD_GLOBAL_FREELEECH.text(), &[setting, GLOBAL.into()])?;
                "added"
            }
        };
        let text = format!("{word}: global freeleech is {}", if wanted { "on" } else { "off" });
        let changes = vec![SiteChange::GlobalFreeleech(wanted)];
        Ok((AdminOutcome { word, text, changes }, format!("global freeleech {}", u8::from(wanted))))
    }

    pub(super) fn group_freeleech(&mut self, group: &Group, wanted: Option<Multipliers>) -> CommandResult {
        let target = format!("group {} {}", group.type_name, group.id);
        let key = || [SqlValue::from(group.id), (*group.type_name).into()];
        let known = self.group_multipliers(group)?;
        let word = match (known, wanted) {
            (same, wanted) if same == wanted => "unchanged",
            (Some(_), Some(Multipliers { up, down })) => {
                let sql = edits::SET_GROUP_MULTIPLIERS.text();
                let [id, type_name] = key();
                self.tables.run_statement(&sql, &[up.into(), down.into(), id, type_name])?;
                // The column may round a number to the value it already had.
                if self.group_multipliers(group)? == known { "unchanged" } else { "changed" }
            }
            (None, Some(Multipliers { up, down })) => {
                let sql = edits::ADD_GROUP_MULTIPLIERS.text();
                let [id, type_name] = key();
                self.tables.run_statement(&sql, &[up.into(), down.into(), id, type_name])?;
                "added"
            }
            (_, None) => {
                self.tables.run_statement(&edits::DELETE_GROUP_MULTIPLIERS.text(), &key())?;
                "removed"
            }
        };
        let now = self.group_multipliers(group)?;
        let text = match now {
            Some(Multipliers { up, down }) => format!("{word}: {target}, up {up} down {down}"),
            None => format!("{word}: {target} has no multipliers"),
        };
        Ok((
            AdminOutcome { word, text, changes: vec![SiteChange::GroupMultipliers(group.clone(), now)] },
            target,
        ))
    }

    fn group_multipliers(&mut self, group: &Group) -> Result<Option<Multipliers>, StoreError> {
        let sql = edits::GROUP_MULTIPLIERS.text();
        let rows = self.tables.query_rows(&sql, &[group.id.into(), (*group.type_name).into()])?;
        let read = |row: &[SqlValue]| match row {
            [up, down] => Some(Multipliers { up: multiplier_value(up)?, down: multiplier_value(down)? }),
            _ => None,
        };
        Ok(rows.first().and_then(|row| read(row)))
    }

    pub(super) fn hit_and_run(&mut self, uid: u32, hash: &InfoHash, wanted: bool) -> CommandResult {
        let target = format!("user {uid} torrent {hash}");
        let Some(torrent) = self.find_torrent(hash)? else { return Ok(missing_torrent(hash, target)) };
        let key = || [SqlValue::from(uid), torrent.id.into()];
        let known = self.tables.query_rows(&edits::HIT_AND_RUN.text(), &key())?;
        let word = match known.first().map(Vec::as_slice) {
            Some([SqlValue::Number(flag)]) if (*flag == 1) == wanted => "unchanged",
            None if !wanted => "unchanged",
            Some(_) => {
                let [uid, fid] = key();
                self.tables.run_statement(&edits::SET_HIT_AND_RUN.text(), &[wanted.into(), uid, fid])?;
                "changed"
            }
            None => {
                self.tables.run_statement(&edits::ADD_HIT_AND_RUN.text(), &key())?;
                "added"
            }
        };
        let id = torrent.id;
        let change =
            if wanted { SiteChange::AddHitAndRun(uid, id) } else { SiteChange::RemoveHitAndRun(uid, id) };
        let has = if wanted { "has a" } else { "has no" };
        let text = format!("{word}: user {uid} {has} hit-and-run on torrent {id}");
        Ok((AdminOutcome { word, text, changes: vec![change] }, target))
    }
}
