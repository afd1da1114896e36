/* A script: strings are taken apart, tables are filled and sorted, closures called, numbers computed. */
#include "driver.h"
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

static const char script[] =
    "local sum = 0\n"
    "local function mix(v) sum = ((sum ~ v) * 16777619) & 0xffffffff end\n"
    "local words = {}\n"
    "for i = 1, 300 do words[i] = string.format('word%d', (i * 7919) % 1009) end\n"
    "table.sort(words)\n"
    "local text = table.concat(words, ' ')\n"
    "local counts = {}\n"
    "for w in text:gmatch('%w+') do local k = w:sub(1, 5); counts[k] = (counts[k] or 0) + 1 end\n"
    "for i = 0, 9 do mix(counts['word' .. i] or 0) end\n"
    "local function fib(n) if n < 2 then return n end return fib(n - 1) + fib(n - 2) end\n"
    "mix(fib(15))\n"
    "local sieve, primes = {}, 0\n"
    "for i = 2, 2000 do if not sieve[i] then primes = primes + 1; for j = i * i, 2000, i do sieve[j] = true end end end\n"
    "mix(primes)\n"
    "local function counter() local i = 0; return function() i = i + 1; return i * i end end\n"
    "local gen = counter()\n"
    "for i = 1, 200 do mix(gen()) end\n"
    "local Point = {}; Point.__index = Point; Point.__add = function(a, b) return setmetatable({x = a.x + b.x}, Point) end\n"
    "local p = setmetatable({x = 0}, Point)\n"
    "for i = 1, 500 do p = p + setmetatable({x = i * 0.5}, Point) end\n"
    "mix(math.floor(p.x)); mix(#(text:gsub('o', '00'):upper()))\n"
    "return sum\n";

static void *
allocate(void *data, void *block, size_t old, size_t size)
{
    (void)data, (void)old;
    if (size)
        return realloc(block, size);
    free(block);
    return NULL;
}

uint32_t
run(uint32_t times)
{
    static const luaL_Reg libraries[] = { { "_G", luaopen_base }, { "table", luaopen_table }, { "string", luaopen_string },
                                          { "math", luaopen_math } };
    uint32_t sum = 0;
    for (uint32_t i = 0; i < times; i++) {
        lua_State *state = lua_newstate(allocate, NULL);
        driver_need(state != NULL);
        for (size_t each = 0; each < sizeof libraries / sizeof *libraries; each++) {
            luaL_requiref(state, libraries[each].name, libraries[each].func, 1);
            lua_pop(state, 1);
        }
        driver_need(luaL_loadstring(state, script) == LUA_OK);
        lua_call(state, 0, 1);
        sum = driver_mix(sum, (uint32_t)lua_tointeger(state, -1));
        lua_close(state);
    }
    return sum;
}
