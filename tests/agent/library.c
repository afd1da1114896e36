/* What a C program does with files, folders and its output: tests/agent/test_wasi_library.py calls it. A failure is its line and errno. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#define CHECK(x) do { if (!(x)) return __LINE__ * 1000 + errno; } while (0)
__attribute__((export_name("say"))) int say(void) { printf("a line\nhalf"); fflush(stdout); return isatty(1); }
__attribute__((export_name("files"))) int files(void)
{
    char text[32] = "";
    struct stat about;
    FILE *file = fopen("/data/new", "w");
    CHECK(file && fprintf(file, "hello %d", 42) == 8 && fclose(file) == 0);
    CHECK((file = fopen("/data/new", "a")) && fputs("!", file) >= 0 && fclose(file) == 0);
    CHECK((file = fopen("/data/new", "r+")) && fseek(file, 6, SEEK_SET) == 0 && fgets(text, sizeof text, file) && fclose(file) == 0);
    CHECK(strcmp(text, "42!") == 0);
    CHECK(stat("/data/new", &about) == 0 && S_ISREG(about.st_mode) && about.st_size == 9);
    CHECK(mkdir("/data/folder", 0700) == 0 && rename("/data/new", "/data/folder/old") == 0);
    CHECK(access("/data/new", F_OK) == -1 && errno == ENOENT);
    DIR *folder = opendir("/data/folder");
    CHECK(folder);
    int seen = 0;
    for (struct dirent *entry; (entry = readdir(folder));)
        seen += strcmp(entry->d_name, "old") == 0;
    CHECK(seen == 1 && closedir(folder) == 0);
    int number = open("/data/folder/old", O_WRONLY | O_NONBLOCK);
    CHECK(number >= 0 && (fcntl(number, F_GETFL) & O_ACCMODE) == O_WRONLY && fcntl(number, F_GETFL) & O_NONBLOCK);
    CHECK(read(number, text, 1) == -1 && errno == EBADF);
    CHECK(fcntl(number, F_SETFL, O_APPEND) == 0 && write(number, "?", 1) == 1 && ftruncate(number, 10) == 0 && close(number) == 0);
    CHECK(open("/data/folder", O_RDWR) == -1 && errno == EISDIR);
    CHECK(unlink("/data/folder/old/") == -1 && errno == ENOTDIR);
    CHECK(rmdir("/data/folder") == -1 && errno == ENOTEMPTY);
    CHECK(unlink("/data/folder/old") == 0 && rmdir("/data/folder") == 0);
    CHECK((file = fopen("/data/file", "w")) && fputs("linked", file) >= 0 && fclose(file) == 0);
    CHECK(symlink("file", "/data/link") == 0 && readlink("/data/link", text, sizeof text) == 4 && memcmp(text, "file", 4) == 0);
    CHECK(lstat("/data/link", &about) == 0 && S_ISLNK(about.st_mode) && stat("/data/link", &about) == 0 && S_ISREG(about.st_mode));
    CHECK(link("/data/file", "/data/name") == 0 && unlink("/data/file") == 0 && fopen("/data/link", "r") == NULL);
    CHECK((file = fopen("/data/name", "r")) && fgets(text, sizeof text, file) && strcmp(text, "linked") == 0 && fclose(file) == 0);
    CHECK(unlink("/data/link") == 0 && unlink("/data/name") == 0 && symlink("/etc/passwd", "/data/link") == -1);
    CHECK(fopen("/etc/passwd", "r") == NULL && fopen("/data/../x", "w") == NULL);
    return 0;
}
