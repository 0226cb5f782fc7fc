-- The statistics' tables. Buckets are UTC. Names are compared byte by byte; no name ends in a space.

CREATE TABLE IF NOT EXISTS counts_minute (
  bucket DATETIME NOT NULL,
  event VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  reason VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  name VARCHAR(200) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  node VARCHAR(200) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  count BIGINT NOT NULL,
  tasks BIGINT NOT NULL,
  bytes BIGINT NOT NULL,
  PRIMARY KEY (bucket, event, reason, name, node)
) ENGINE=InnoDB;

CREATE TABLE IF NOT EXISTS counts_hour (
  bucket DATETIME NOT NULL,
  event VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  reason VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  name VARCHAR(200) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  node VARCHAR(200) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  count BIGINT NOT NULL,
  tasks BIGINT NOT NULL,
  bytes BIGINT NOT NULL,
  PRIMARY KEY (bucket, event, reason, name, node)
) ENGINE=InnoDB;

-- Completed tasks by the time that they waited (queued) and ran (duration), in the bins of headrace.contract.duration_bins.
CREATE TABLE IF NOT EXISTS durations_hour (
  bucket DATETIME NOT NULL,
  measure VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  name VARCHAR(200) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  bin INT NOT NULL,
  count BIGINT NOT NULL,
  PRIMARY KEY (bucket, measure, name, bin)
) ENGINE=InnoDB;

-- The micro-batches that are in the tables, by the checkpoint that counted them, and how many events came too late.
CREATE TABLE IF NOT EXISTS batches (
  checkpoint CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  batch BIGINT NOT NULL,
  written_at DATETIME(3) NOT NULL,
  late BIGINT NOT NULL DEFAULT 0,
  PRIMARY KEY (checkpoint, batch)
) ENGINE=InnoDB;

CREATE TABLE IF NOT EXISTS audits (
  at DATETIME(3) NOT NULL,
  settled DATETIME(3) NOT NULL,
  received BIGINT NOT NULL,
  completed BIGINT NOT NULL,
  dead BIGINT NOT NULL,
  running BIGINT NOT NULL,
  queued BIGINT NOT NULL,
  lost BIGINT NOT NULL,
  repeated BIGINT NOT NULL,
  tables_agree BOOLEAN NULL,
  PRIMARY KEY (at)
) ENGINE=InnoDB;

CREATE TABLE IF NOT EXISTS audit_findings (
  id CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  verdict VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  event VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  found_at DATETIME(3) NOT NULL,
  resolved_at DATETIME(3) NULL,
  detail VARCHAR(500) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  PRIMARY KEY (id, verdict, event),
  KEY open_findings (verdict, resolved_at, found_at)
) ENGINE=InnoDB;
