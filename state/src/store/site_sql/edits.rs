//! The changes that people and back ends make: statements for both stores, with `?` for each value.

use super::SiteSql;

/// The condition for a passkey, which is given twice. A server takes 'a' for 'A' and ignores blanks at the
/// end; a tracker does not.
macro_rules! exact_passkey {
    () => {
        "{users.passkey} = ? AND hex({users.passkey}) = hex(?)"
    };
}

/// The condition for the prefix of a client, which is given twice.
macro_rules! exact_client {
    () => {
        "{clients.prefix} = ? AND hex({clients.prefix}) = hex(?)"
    };
}

/// The columns of a user, with the enabled one first if several match.
macro_rules! find_user {
    ($condition:expr) => {
        concat!(
            "SELECT {users.id}, {users.passkey}, {users.enabled}, {users.no_download}, {users.hidden}, \
             {users.up}, {users.down} FROM {users} WHERE ",
            $condition,
            " ORDER BY {users.enabled} = '1' DESC, {users.id} DESC"
        )
    };
}

/// Defines a constant for each statement, and a table of all for a test.
macro_rules! statements {
    ($($(#[$doc:meta])* $name:ident = $sql:expr;)*) => {
        $($(#[$doc])* pub(crate) const $name: SiteSql = SiteSql($sql);)*

        #[cfg(test)]
        pub(super) const ALL: &[(&str, SiteSql)] = &[$((stringify!($name), $name)),*];
    };
}

statements! {
    FIND_TORRENT = "SELECT {torrents.id}, {torrents.group}, {torrents.type}, {torrents.snatched}, \
        {torrents.status}, {torrents.up}, {torrents.down} FROM {torrents} WHERE {torrents.info_hash} = ?";
    FIND_INFO_HASH = "SELECT {torrents.info_hash} FROM {torrents} WHERE {torrents.id} = ?";
    ADD_TORRENT = "INSERT INTO {torrents} ({torrents.id}, {torrents.group}, {torrents.type}, \
        {torrents.info_hash}, {torrents.up}, {torrents.down}) VALUES (?, ?, ?, ?, ?, ?)";
    SET_TORRENT_UP = "UPDATE {torrents} SET {torrents.up} = ? WHERE {torrents.info_hash} = ?";
    SET_TORRENT_DOWN = "UPDATE {torrents} SET {torrents.down} = ? WHERE {torrents.info_hash} = ?";
    SET_TORRENT_STATUS = "UPDATE {torrents} SET {torrents.status} = ? WHERE {torrents.info_hash} = ?";
    SET_TORRENT_TYPE = "UPDATE {torrents} SET {torrents.type} = ? WHERE {torrents.info_hash} = ?";
    SET_TORRENT_GROUP = "UPDATE {torrents} SET {torrents.group} = ? WHERE {torrents.info_hash} = ?";
    DELETE_TORRENT = "DELETE FROM {torrents} WHERE {torrents.info_hash} = ?";

    FIND_USER_BY_ID = find_user!("{users.id} = ?");
    FIND_USER_BY_PASSKEY = find_user!(exact_passkey!());
    OTHER_USER_WITH_PASSKEY = concat!(
        "SELECT {users.id} FROM {users} WHERE ",
        exact_passkey!(),
        " AND {users.id} <> ? ORDER BY {users.enabled} = '1' DESC, {users.id} DESC"
    );
    ADD_USER = "INSERT INTO {users} ({users.id}, {users.enabled}, {users.passkey}) VALUES (?, '1', ?)";
    ENABLE_USER = "UPDATE {users} SET {users.passkey} = ?, {users.enabled} = '1' WHERE {users.id} = ?";
    /// '2' is what sites call disabled; '0' means never enabled.
    DISABLE_USER =
        "UPDATE {users} SET {users.enabled} = '2' WHERE {users.id} = ? AND {users.enabled} = '1'";
    SET_PASSKEY = "UPDATE {users} SET {users.passkey} = ? WHERE {users.id} = ?";
    SET_NO_DOWNLOAD = "UPDATE {users} SET {users.no_download} = ? WHERE {users.id} = ?";
    SET_HIDDEN = "UPDATE {users} SET {users.hidden} = ? WHERE {users.id} = ?";
    SET_USER_UP = "UPDATE {users} SET {users.up} = ? WHERE {users.id} = ?";
    SET_USER_DOWN = "UPDATE {users} SET {users.down} = ? WHERE {users.id} = ?";

    FIND_CLIENTS = concat!(
        "SELECT {clients.id}, {clients.archived} FROM {clients} WHERE ",
        exact_client!(),
        " ORDER BY {clients.archived}, {clients.id}"
    );
    ADD_CLIENT = "INSERT INTO {clients} ({clients.prefix}, {clients.archived}) VALUES (?, 0)";
    APPROVE_CLIENT = "UPDATE {clients} SET {clients.archived} = 0 WHERE {clients.id} = ?";
    ARCHIVE_CLIENT = concat!("UPDATE {clients} SET {clients.archived} = 1 WHERE ", exact_client!());

    GLOBAL_FREELEECH = "SELECT {settings.value} FROM {settings} WHERE {settings.name} = ?";
    SET_GLOBAL_FREELEECH = "UPDATE {settings} SET {settings.value} = ? WHERE {settings.name} = ?";
    ADD_GLOBAL_FREELEECH = "INSERT INTO {settings} ({settings.value}, {settings.name}) VALUES (?, ?)";
    GROUP_MULTIPLIERS =
        "SELECT {groups.up}, {groups.down} FROM {groups} WHERE {groups.id} = ? AND {groups.type} = ?";
    SET_GROUP_MULTIPLIERS = "UPDATE {groups} SET {groups.up} = ?, {groups.down} = ? \
        WHERE {groups.id} = ? AND {groups.type} = ?";
    ADD_GROUP_MULTIPLIERS = "INSERT INTO {groups} ({groups.up}, {groups.down}, {groups.id}, {groups.type}) \
        VALUES (?, ?, ?, ?)";
    DELETE_GROUP_MULTIPLIERS = "DELETE FROM {groups} WHERE {groups.id} = ? AND {groups.type} = ?";

    HIT_AND_RUN =
        "SELECT {history.hit_and_run} FROM {history} WHERE {history.user} = ? AND {history.torrent} = ?";
    SET_HIT_AND_RUN = "UPDATE {history} SET {history.hit_and_run} = ? \
        WHERE {history.user} = ? AND {history.torrent} = ?";
    ADD_HIT_AND_RUN = "INSERT INTO {history} ({history.user}, {history.torrent}, {history.hit_and_run}) \
        VALUES (?, ?, 1)";
}
