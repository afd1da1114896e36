//! Zig's own library: JSON is written and read, compared and hashed with BLAKE3.
const std = @import("std");

const Record = struct { board: []const u8, count: u32, ok: bool, values: [4]i32 };

fn once(from: u32, turn: u32) !u32 {
    var sum = from;
    var arena = std.heap.ArenaAllocator.init(std.heap.page_allocator);
    defer arena.deinit();
    const memory = arena.allocator();
    const records = try memory.alloc(Record, 200);
    for (records, 0..) |*each, at| {
        const roll = (@as(u32, @intCast(at)) +% turn) *% 2654435761;
        each.* = .{
            .board = try std.fmt.allocPrint(memory, "board-{d} \"{x}\"", .{ roll % 1000, roll }),
            .count = roll,
            .ok = roll & 1 == 1,
            .values = .{ @bitCast(roll), @intCast(roll >> 8), -@as(i32, @intCast(roll >> 4)), 0 },
        };
    }
    const text = try std.json.Stringify.valueAlloc(memory, records, .{ .whitespace = .indent_2 });
    const back = try std.json.parseFromSliceLeaky([]Record, memory, text, .{});
    for (back) |each| sum = (sum ^ each.count ^ @as(u32, @bitCast(each.values[2]))) *% 16777619;
    var digest: [32]u8 = undefined;
    std.crypto.hash.Blake3.hash(text, &digest, .{});
    return sum ^ std.mem.readInt(u32, digest[0..4], .little);
}

export fn run(times: u32) u32 {
    var sum: u32 = 0;
    for (0..times) |turn| sum = once(sum, @intCast(turn)) catch unreachable;
    return sum;
}
