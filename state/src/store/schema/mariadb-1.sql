CREATE TABLE IF NOT EXISTS approved_clients (
    id mediumint unsigned NOT NULL AUTO_INCREMENT,
    peer_id varchar(42) NOT NULL,
    archived tinyint(1) NOT NULL DEFAULT 0,
    PRIMARY KEY (id)
) ENGINE=InnoDB;

CREATE TABLE IF NOT EXISTS mod_core (
    mod_option varchar(121) NOT NULL,
    mod_setting int(12) NOT NULL,
    PRIMARY KEY (mod_option)
) ENGINE=InnoDB;

CREATE TABLE IF NOT EXISTS torrent_group_freeleech (
    ID int(10) NOT NULL AUTO_INCREMENT,
    GroupID int(10) NOT NULL,
    Type enum('anime','music') NOT NULL,
    DownMultiplier float NOT NULL DEFAULT 1,
    UpMultiplier float NOT NULL DEFAULT 1,
    PRIMARY KEY (ID),
    UNIQUE KEY GroupID (GroupID, Type)
) ENGINE=InnoDB;

CREATE TABLE IF NOT EXISTS torrents (
    ID int(10) NOT NULL AUTO_INCREMENT,
    GroupID int(10) NOT NULL,
    TorrentType enum('anime','music') NOT NULL,
    info_hash blob NOT NULL,
    Leechers int(6) NOT NULL DEFAULT 0,
    Seeders int(6) NOT NULL DEFAULT 0,
    last_action int NOT NULL DEFAULT 0,
    Snatched int unsigned NOT NULL DEFAULT 0,
    DownMultiplier float NOT NULL DEFAULT 1,
    UpMultiplier float NOT NULL DEFAULT 1,
    Status int NOT NULL DEFAULT 0,
    PRIMARY KEY (ID),
    UNIQUE KEY InfoHash (info_hash(20))
) ENGINE=InnoDB;

CREATE TABLE IF NOT EXISTS transfer_history (
    uid int NOT NULL,
    fid int NOT NULL,
    uploaded bigint NOT NULL DEFAULT 0,
    downloaded bigint NOT NULL DEFAULT 0,
    seeding tinyint NOT NULL DEFAULT 0,
    seedtime int(30) NOT NULL DEFAULT 0,
    activetime int(30) NOT NULL DEFAULT 0,
    hnr tinyint NOT NULL DEFAULT 0,
    remaining bigint NOT NULL DEFAULT 0,
    active tinyint NOT NULL DEFAULT 0,
    starttime int NOT NULL DEFAULT 0,
    last_announce int NOT NULL DEFAULT 0,
    snatched int NOT NULL DEFAULT 0,
    snatched_time int NOT NULL DEFAULT 0,
    PRIMARY KEY (uid, fid),
    KEY active_last_announce (active, last_announce),
    KEY hnr_uid_fid (hnr, uid, fid)
) ENGINE=InnoDB;

CREATE TABLE IF NOT EXISTS transfer_ips (
    last_announce int unsigned NOT NULL DEFAULT 0,
    starttime int unsigned NOT NULL DEFAULT 0,
    uid int unsigned NOT NULL,
    fid int unsigned NOT NULL,
    ip int unsigned NOT NULL,
    client_id mediumint unsigned NOT NULL,
    uploaded bigint unsigned NOT NULL DEFAULT 0,
    downloaded bigint unsigned NOT NULL DEFAULT 0,
    port smallint unsigned zerofill NOT NULL DEFAULT 0,
    PRIMARY KEY (uid, fid, ip, client_id)
) ENGINE=InnoDB;

CREATE TABLE IF NOT EXISTS users_main (
    ID int unsigned NOT NULL AUTO_INCREMENT,
    Uploaded bigint unsigned NOT NULL DEFAULT 0,
    Downloaded bigint unsigned NOT NULL DEFAULT 0,
    Enabled enum('0','1','2') NOT NULL DEFAULT '0',
    torrent_pass char(32) NOT NULL,
    rawup bigint unsigned NOT NULL DEFAULT 0,
    rawdl bigint unsigned NOT NULL DEFAULT 0,
    DownMultiplier float NOT NULL DEFAULT 1,
    UpMultiplier float NOT NULL DEFAULT 1,
    DisableDownload tinyint(1) NOT NULL DEFAULT 0,
    TrackerHide tinyint(1) NOT NULL DEFAULT 0,
    PRIMARY KEY (ID),
    KEY torrent_pass (torrent_pass)
) ENGINE=InnoDB;

ALTER TABLE transfer_ips ADD COLUMN IF NOT EXISTS ip6 varbinary(16) NULL DEFAULT NULL;

CREATE TABLE IF NOT EXISTS hayate_journal (node varchar(64) NOT NULL, queue varchar(32) NOT NULL, seq bigint unsigned NOT NULL,
PRIMARY KEY (node, queue)) ENGINE=InnoDB;

CREATE TABLE IF NOT EXISTS hayate_completed (
    info_hash binary(20) NOT NULL PRIMARY KEY,
    completed int unsigned NOT NULL DEFAULT 0,
    last_completed int unsigned NOT NULL DEFAULT 0,
    KEY last_completed (last_completed)
) ENGINE=InnoDB;

CREATE TABLE IF NOT EXISTS hayate_schema (version int unsigned NOT NULL) ENGINE=InnoDB;

INSERT INTO hayate_schema (version) SELECT 1 FROM DUAL WHERE NOT EXISTS (SELECT version FROM hayate_schema);
