// What a program that was granted the capability `eval` may import, to ask for other replies on its way. See docs/authoring.md.
//
// Every function returns 0 or an errno of WASI: 8 no such reply, 28 no question was begun or a name is malformed, 44 no such output.
#ifndef EVALMESH_H
#define EVALMESH_H

#include <stdint.h>
#include <string.h>

#define EVALMESH(name) __attribute__((import_module("evalmesh"), import_name(#name)))

// A question is begun with its program: these bytes, or the program that asks. Then its fields are added, in any order.
EVALMESH(program) int32_t evalmesh_program(const void *bytes, uint32_t len);
EVALMESH(program_self) int32_t evalmesh_program_self(void);
EVALMESH(entry) int32_t evalmesh_entry(const char *name, uint32_t len);
EVALMESH(argument) int32_t evalmesh_argument(const char *text, uint32_t len);
EVALMESH(variable) int32_t evalmesh_variable(const char *name, uint32_t name_len, const char *value, uint32_t len);
EVALMESH(input) int32_t evalmesh_input(const void *bytes, uint32_t len);
EVALMESH(file) int32_t evalmesh_file(const char *path, uint32_t path_len, const void *bytes, uint32_t len);
// A capability for the program that is asked; only those that the asking one has.
EVALMESH(capability) int32_t evalmesh_capability(const char *name, uint32_t len);

// Asks, and waits for the reply, whose number it gives.
EVALMESH(ask) int32_t evalmesh_ask(uint32_t *reply);

// How it ended: kind 0 and the exit status, or kind 1 and the number of the trap.
struct evalmesh_status { uint32_t kind; int32_t code; };
EVALMESH(status) int32_t evalmesh_status(uint32_t reply, struct evalmesh_status *status);

// An output: standard output under the empty path, else a file that the program made.
EVALMESH(output_len) int32_t evalmesh_output_len(uint32_t reply, const char *path, uint32_t path_len, uint64_t *len);
EVALMESH(output_read) int32_t evalmesh_output_read(
    uint32_t reply, const char *path, uint32_t path_len, uint64_t at, void *buffer, uint32_t len, uint32_t *read);

// Gives back what a reply holds; its number is not used again.
EVALMESH(forget) int32_t evalmesh_forget(uint32_t reply);

#endif
