//! Zig's own library: sorts, an array hash map, a priority queue.
const std = @import("std");

var state: u32 = 19;

fn random() u32 {
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state;
}

fn mix(sum: u32, value: u32) u32 {
    return (sum ^ value) *% 16777619;
}

fn order(_: void, a: u32, b: u32) std.math.Order {
    return std.math.order(a, b);
}

fn once(from: u32) !u32 {
    var sum = from;
    var arena = std.heap.ArenaAllocator.init(std.heap.page_allocator);
    defer arena.deinit();
    const memory = arena.allocator();
    const numbers = try memory.alloc(u32, 4000);
    for (numbers) |*each| each.* = random();
    std.mem.sort(u32, numbers, {}, std.sort.asc(u32));
    for (numbers[0..64]) |each| sum = mix(sum, each);
    for (numbers) |*each| each.* *%= 2654435761;
    std.mem.sortUnstable(u32, numbers, {}, std.sort.desc(u32));
    var map = std.AutoArrayHashMap(u32, u32).init(memory);
    var names = std.StringArrayHashMap(u32).init(memory);
    for (numbers) |each| {
        const entry = try map.getOrPutValue(each >> 21, 0);
        entry.value_ptr.* ^= each;
        if (each & 3 == 0) try names.put(try std.fmt.allocPrint(memory, "board-{d}", .{each >> 22}), each);
    }
    for (map.keys(), map.values()) |key, value| sum = mix(mix(sum, key), value);
    for (names.keys()) |name| sum = mix(sum, @intCast(name.len + names.get(name).? % 1000));
    var queue = std.PriorityQueue(u32, void, order).init(memory, {});
    for (numbers[0..1000]) |each| try queue.add(each ^ 0x55555555);
    while (queue.removeOrNull()) |each| sum = mix(sum, each);
    return sum;
}

export fn run(times: u32) u32 {
    state = 19;
    var sum: u32 = 0;
    for (0..times) |_| sum = once(sum) catch unreachable;
    return sum;
}
