/* In front of mmap, for x86-64 under qemu-user, which ignores MAP_32BIT: room in the low 2 GB, where images want to be. */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

void *
mmap(void *address, size_t size, int protection, int flags, int file, off_t offset)
{
    static char *room = (char *)0x10000000;
    if (flags & MAP_32BIT) {
        address = room;
        flags = (flags & ~MAP_32BIT) | MAP_FIXED_NOREPLACE;
        room += (size + 0xffff) & ~(size_t)0xffff;
    }
    return (void *)syscall(SYS_mmap, address, size, protection, flags, file, offset);
}

void *
mmap64(void *address, size_t size, int protection, int flags, int file, off_t offset)
{
    return mmap(address, size, protection, flags, file, offset);
}
