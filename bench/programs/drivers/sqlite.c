/* A database in memory: rows with an index are inserted, read in order, joined, updated and removed. */
#include "driver.h"
#include <sqlite3.h>

/* The file system of a program that has none. */
static int no_open(sqlite3_vfs *v, const char *n, sqlite3_file *f, int i, int *o) { (void)v, (void)n, (void)f, (void)i, (void)o; return SQLITE_CANTOPEN; }
static int no_delete(sqlite3_vfs *v, const char *n, int s) { (void)v, (void)n, (void)s; return SQLITE_IOERR; }
static int no_access(sqlite3_vfs *v, const char *n, int f, int *o) { (void)v, (void)n, (void)f; *o = 0; return SQLITE_OK; }
static int no_path(sqlite3_vfs *v, const char *n, int s, char *o) { (void)v; snprintf(o, (size_t)s, "%s", n); return SQLITE_OK; }
static int no_random(sqlite3_vfs *v, int n, char *o) { (void)v; memset(o, 7, (size_t)n); return n; }
static int no_sleep(sqlite3_vfs *v, int us) { (void)v; return us; }
static int no_time(sqlite3_vfs *v, double *o) { (void)v; *o = 2460000.5; return SQLITE_OK; }
static int no_error(sqlite3_vfs *v, int n, char *o) { (void)v, (void)n, (void)o; return 0; }

static sqlite3_vfs nothing = { 1, sizeof(sqlite3_file), 64, 0, "nothing", 0, no_open, no_delete, no_access, no_path, 0, 0, 0, 0,
                               no_random, no_sleep, no_time, no_error, 0, 0, 0, 0 };

int sqlite3_os_init(void) { return sqlite3_vfs_register(&nothing, 1); }
int sqlite3_os_end(void) { return SQLITE_OK; }

static uint32_t
ask(sqlite3 *database, const char *query, uint32_t sum)
{
    sqlite3_stmt *statement;
    driver_need(sqlite3_prepare_v2(database, query, -1, &statement, 0) == SQLITE_OK);
    int status;
    while ((status = sqlite3_step(statement)) == SQLITE_ROW) {
        for (int i = 0; i < sqlite3_column_count(statement); i++)
            sum = driver_sum(sum, sqlite3_column_text(statement, i), (size_t)sqlite3_column_bytes(statement, i));
    }
    driver_need(status == SQLITE_DONE);
    sqlite3_finalize(statement);
    return sum;
}

uint32_t
run(uint32_t times)
{
    uint32_t sum = 0, seed = 4;
    for (uint32_t i = 0; i < times; i++) {
        sqlite3 *database;
        sqlite3_stmt *insert;
        driver_need(sqlite3_open(":memory:", &database) == SQLITE_OK);
        sum = ask(database, "create table readings (id integer primary key, board text, value integer, note text)", sum);
        sum = ask(database, "create index by_board on readings (board, value)", sum);
        sum = ask(database, "begin", sum);
        driver_need(sqlite3_prepare_v2(database, "insert into readings (board, value, note) values (?, ?, ?)", -1, &insert, 0) == SQLITE_OK);
        for (int row = 0; row < 500; row++) {
            char board[16], note[24];
            uint32_t roll = driver_random(&seed);
            snprintf(board, sizeof board, "board-%u", (unsigned)(roll % 20));
            snprintf(note, sizeof note, "%u degrees", (unsigned)(roll >> 12));
            sqlite3_bind_text(insert, 1, board, -1, SQLITE_TRANSIENT);
            sqlite3_bind_int(insert, 2, (int)(roll >> 4) % 1000);
            sqlite3_bind_text(insert, 3, note, -1, SQLITE_TRANSIENT);
            driver_need(sqlite3_step(insert) == SQLITE_DONE);
            sqlite3_reset(insert);
        }
        sqlite3_finalize(insert);
        sum = ask(database, "commit", sum);
        sum = ask(database, "select board, count(*), sum(value), max(note) from readings group by board order by 3 desc", sum);
        sum = ask(database, "select a.id, b.value from readings a join readings b on a.board = b.board and a.value = b.value + 1", sum);
        sum = ask(database, "update readings set value = value * 2, note = upper(note) where note like '%7%'", sum);
        sum = ask(database, "delete from readings where value % 3 = 0", sum);
        sum = ask(database, "select group_concat(note, ';') from (select note from readings order by note limit 50)", sum);
        sqlite3_close(database);
    }
    return sum;
}
