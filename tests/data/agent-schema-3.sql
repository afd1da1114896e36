BEGIN TRANSACTION;
CREATE TABLE bus (
    number integer primary key autoincrement, time_s real not null, source text not null, target text not null,
    topic text not null, payload blob not null, hops integer not null) strict;
INSERT INTO "bus" VALUES(1,1.0,'roof','cellar','local/a',X'73616964',1);
CREATE TABLE documents (name text primary key, document blob not null) strict;
CREATE TABLE envelopes (digest blob primary key, envelope blob not null) strict;
CREATE TABLE floors (
    name text, key blob, value integer not null, digest blob not null, primary key (name, key)) strict;
INSERT INTO "floors" VALUES('sequence.pump',X'6B6579',1,X'3131313131313131313131313131313131313131313131313131313131313131');
INSERT INTO "floors" VALUES('epoch.pump',X'6B6579',0,X'');
CREATE TABLE journal (
    id integer primary key, time_s integer not null, instance text not null, phase text not null, deployment blob not null,
    manifest blob not null, config blob not null, together text not null, resumptions integer not null, reason text not null,
    detail text not null, events integer not null, chain blob not null) strict;
INSERT INTO "journal" VALUES(1,1,'roof','confirmed',X'64646464646464646464646464646464',X'3131313131313131313131313131313131313131313131313131313131313131',X'','',0,'','',0,X'B4DEC81D525BE18D59992F3B2C7806C23947F60F8B3A1694F794B40B18B328E0');
CREATE TABLE keyvalue (
    instance text, module text, release blob, key text, value blob not null, primary key (instance, module, release, key)) strict;
CREATE TABLE meta (key text primary key, value integer not null) strict;
INSERT INTO "meta" VALUES('schema',3);
CREATE TABLE outbox (
    number integer primary key autoincrement, time_s real not null, instance text not null, module text not null,
    topic text not null, payload blob not null) strict;
INSERT INTO "outbox" VALUES(1,1.0,'roof','pump 1.0.0','t',X'6669727374');
INSERT INTO "outbox" VALUES(2,2.0,'roof','pump 1.0.0','t',X'7365636F6E64');
CREATE TABLE roots (number integer primary key, document blob not null) strict;
CREATE TABLE slots (
    instance text, name text, module text not null, envelope blob not null, config blob not null, sequence integer not null,
    epoch integer not null, failures integer not null default 0, failed_s integer not null default 0,
    primary key (instance, name)) strict;
INSERT INTO "slots" VALUES('roof','confirmed','pump',X'3131313131313131313131313131313131313131313131313131313131313131',X'',1,0,0,0);
CREATE TABLE states (
    instance text, module text, release blob, state blob not null, primary key (instance, module, release)) strict;
CREATE INDEX journal_of on journal (instance, id);
CREATE INDEX bus_to on bus (target, number);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('bus',1);
INSERT INTO "sqlite_sequence" VALUES('outbox',2);
COMMIT;
pragma user_version = 3;
