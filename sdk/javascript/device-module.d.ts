// Made by declarations.py from sdk/wit/module.wit. What a module and a board say to each other.

/** Lines of the log; `log` is `info`. */
declare var console: Record<"log" | "trace" | "debug" | "info" | "warn" | "error", (...values: unknown[]) => void>;
declare class TextEncoder {
    readonly encoding: string;
    encode(text?: string): Uint8Array;
    encodeInto(text: string, bytes: Uint8Array): { read: number; written: number };
}
declare class TextDecoder {
    constructor(label?: string, options?: { fatal?: boolean; ignoreBOM?: boolean });
    readonly encoding: string;
    readonly fatal: boolean;
    readonly ignoreBOM: boolean;
    decode(bytes?: ArrayBufferView | ArrayBuffer, options?: { stream?: boolean }): string;
}

/** Log records; they carry the module's name and version and reach `ota logs`. */
declare module "device:module/logging" {
    export type Level = "trace" | "debug" | "info" | "warn" | "error";
    export function log(level: Level, message: string): void;
}

/** Messages that leave the module. They are sent once the event in hand has been handled, and not at all if it traps. */
declare module "device:module/messaging" {
    export type PublishError = "denied" | "too-large" | "queue-full";
    /** Throws an Error whose `code` is a PublishError. */
    export function publish(topic: string, payload: Uint8Array | ArrayBuffer | string): void;
}

/** A small store that outlives the module. Writes take effect once the event in hand has been handled. */
declare module "device:module/keyvalue" {
    export function get(key: string): Uint8Array | undefined;
    /** Throws an Error. */
    export function set(key: string, value: Uint8Array | ArrayBuffer | string): void;
    /** Throws an Error. */
    function remove(key: string): void;
    export { remove as delete };
}

/** Time in nanoseconds. */
declare module "device:module/clock" {
    /** Since 1970-01-01 UTC, as far as the board knows. */
    export function now(): bigint;
    /** Since an arbitrary moment; never goes back, not comparable across a restart. */
    export function monotonic(): bigint;
}

/** Settings that the board's owner wrote for this module. */
declare module "device:module/config" {
    export function get(key: string): string | undefined;
}

/** Random bytes, of the kernel's own generator. */
declare module "device:module/random" {
    /** At most 64 KiB; more gives none. */
    export function get(size: number): Uint8Array;
}

/** Lines of general-purpose input and output, named as in the manifest: "gpiochip0:17". */
declare module "device:module/gpio" {
    export type GpioError = "denied" | "failed";
    /** Throws an Error whose `code` is a GpioError. */
    export function read(line: string): boolean;
    /** Throws an Error whose `code` is a GpioError. */
    export function write(line: string, value: boolean): void;
}

/** Serial ports, named by their path; the baud rate is the manifest's. */
declare module "device:module/serial" {
    export type SerialError = "denied" | "failed";
    /** What has arrived, at most `limit` bytes; never waits. Throws an Error whose `code` is a SerialError. */
    export function read(port: string, limit: number): Uint8Array;
    /** All of the data, or an error. Throws an Error whose `code` is a SerialError. */
    export function write(port: string, data: Uint8Array | ArrayBuffer | string): void;
}

/** What a module exports: objects of these types, named events, startup, timer, health, state. Only `events` is needed. */
declare module "device:module" {
    /** Every module handles events. */
    export interface Events {
        handle(topic: string, payload: Uint8Array): void | Promise<void>;
    }
    /** Called once, before the first event and after `restore`. The configuration: what the manifest says, and then a line "key=value"
     * for each setting; a line that begins with a space goes on with the value before it. */
    export interface Startup {
        init(config: Uint8Array): void | Promise<void>;
    }
    /** Called at the period that the manifest asks for. */
    export interface Timer {
        tick(nowNs: bigint): void | Promise<void>;
    }
    /** Asked during a trial and from time to time after it. */
    export interface Health {
        check(): void | Promise<void>;
    }
    /** What a module hands to its successor. */
    export interface State {
        save(): Uint8Array | ArrayBuffer | string | Promise<Uint8Array | ArrayBuffer | string>;
        restore(state: Uint8Array): void | Promise<void>;
    }
}
