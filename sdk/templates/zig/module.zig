//! NAME: adds up the bytes of each event, and publishes the sum as text on readings/sum.

extern "device:module/messaging@0.1.0" fn publish(topic: [*]const u8, topic_size: u32, payload: [*]const u8, size: u32, out: *[2]u8) void;

const Result = extern struct { failed: u8, at: [*]const u8, size: u32 };

var arena: [32768]u8 align(16) = undefined;
var arena_used: usize = 0;
var result: Result = undefined;

/// The canonical ABI's allocator: what the host passes in lives until the event is handled.
fn realloc(old: ?[*]u8, old_size: usize, alignment: usize, size: usize) callconv(.c) [*]u8 {
    const start = (arena_used + alignment - 1) & ~(alignment - 1);
    if (size > arena.len or start > arena.len - size) @trap();
    arena_used = start + size;
    if (old) |bytes| @memcpy(arena[start..][0..@min(old_size, size)], bytes[0..@min(old_size, size)]);
    return arena[start..].ptr;
}

fn handle(topic: [*]const u8, topic_size: u32, payload: [*]const u8, size: u32) callconv(.c) *Result {
    _ = topic;
    _ = topic_size;
    var sum: u32 = 0;
    for (payload[0..size]) |byte| sum +%= byte;

    var text: [10]u8 = undefined;
    var at: usize = text.len;
    while (true) {
        at -= 1;
        text[at] = '0' + @as(u8, @intCast(sum % 10));
        sum /= 10;
        if (sum == 0) break;
    }
    const name = "readings/sum";
    var status: [2]u8 = .{ 0, 0 };
    publish(name, name.len, text[at..].ptr, @intCast(text.len - at), &status);
    const message: []const u8 = if (status[0] == 0) "" else "the sum could not be published";
    result = .{ .failed = status[0], .at = message.ptr, .size = @intCast(message.len) };
    return &result;
}

fn posted(_: *Result) callconv(.c) void {
    arena_used = 0;
}

comptime {
    @export(&realloc, .{ .name = "cabi_realloc" });
    @export(&handle, .{ .name = "device:module/events@0.1.0#handle" });
    @export(&posted, .{ .name = "cabi_post_device:module/events@0.1.0#handle" });
}
