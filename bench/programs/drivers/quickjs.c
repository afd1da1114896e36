/* A script: JSON, a regular expression, classes, maps, sorting, big integers. */
#include "driver.h"
#include <quickjs.h>

static const char script[] =
    "(() => { let sum = 0; const mix = v => { sum = Math.imul(sum ^ v, 16777619) >>> 0; };\n"
    "class Reading { constructor(board, value) { this.board = board; this.value = value; } get twice() { return this.value * 2; } }\n"
    "const all = []; for (let i = 0; i < 400; i++) all.push(new Reading('board-' + (i * 7919) % 23, (i * 104729) % 1009));\n"
    "all.sort((a, b) => a.value - b.value || (a.board < b.board ? -1 : 1));\n"
    "const by = new Map(); for (const r of all) by.set(r.board, (by.get(r.board) || 0) + r.twice);\n"
    "for (const [k, v] of by) { mix(k.length); mix(v); }\n"
    "const text = JSON.stringify(all); const again = JSON.parse(text); mix(text.length); mix(again.reduce((a, r) => a + r.value, 0));\n"
    "let found = 0; for (const m of text.matchAll(/\"board\":\"board-(\\d+)\",\"value\":(\\d+)/g)) found += (+m[1]) * (+m[2]); mix(found);\n"
    "const fib = n => n < 2 ? n : fib(n - 1) + fib(n - 2); mix(fib(14));\n"
    "let big = 1n; for (let i = 1n; i <= 60n; i++) big *= i; mix(Number(big % 1000003n));\n"
    "const bytes = new Uint8Array(2048); for (let i = 0; i < 2048; i++) bytes[i] = i * 31; for (const b of bytes) mix(b);\n"
    "return sum; })()";

uint32_t
run(uint32_t times)
{
    uint32_t sum = 0;
    for (uint32_t i = 0; i < times; i++) {
        JSRuntime *runtime = JS_NewRuntime();
        JSContext *context = JS_NewContext(runtime);
        JSValue result = JS_Eval(context, script, sizeof script - 1, "script", JS_EVAL_TYPE_GLOBAL);
        uint32_t value = 0;
        driver_need(!JS_IsException(result) && JS_ToUint32(context, &value, result) == 0);
        sum = driver_mix(sum, value);
        JS_FreeValue(context, result);
        JS_FreeContext(context);
        JS_FreeRuntime(runtime);
    }
    return sum;
}
