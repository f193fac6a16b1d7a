/* A QEMU plugin (interface version 1) that counts the guest's instructions.
 *
 * The guest marks a place with getpgid(MARKER): no process has that number, so
 * the call only fails, and a Python guest needs nothing but `os.getpgid`. At
 * each mark the count so far is written to stderr, one line "instructions N".
 *
 * Distributions do not package qemu-plugin.h, so the few declarations are
 * here. One thread only: the counter is not atomic.
 */
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>

#define EXPORTED __attribute__((visibility("default")))
#define MARKER 0x7ff0 /* As in counting_child.py. */
#define GETPGID_AARCH64 155
#define INLINE_ADD_U64 0

typedef uint64_t plugin_id;
struct block;

typedef void (*block_callback)(plugin_id, struct block *);
typedef void (*syscall_callback)(plugin_id, unsigned cpu, int64_t number,
                                 uint64_t, uint64_t, uint64_t, uint64_t,
                                 uint64_t, uint64_t, uint64_t, uint64_t);

extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, block_callback);
extern void qemu_plugin_register_vcpu_syscall_cb(plugin_id, syscall_callback);
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct block *, int,
                                                     void *, uint64_t);
extern size_t qemu_plugin_tb_n_insns(const struct block *);

EXPORTED int qemu_plugin_version = 1;

static uint64_t num_instructions;

/* Each block adds its length when it runs. */
static void on_translation(plugin_id id, struct block *block) {
  (void)id;
  qemu_plugin_register_vcpu_tb_exec_inline(
      block, INLINE_ADD_U64, &num_instructions, qemu_plugin_tb_n_insns(block));
}

static void on_syscall(plugin_id id, unsigned cpu, int64_t number, uint64_t pid,
                       uint64_t a2, uint64_t a3, uint64_t a4, uint64_t a5,
                       uint64_t a6, uint64_t a7, uint64_t a8) {
  (void)id, (void)cpu, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6;
  (void)a7, (void)a8;
  if (number == GETPGID_AARCH64 && pid == MARKER) {
    fprintf(stderr, "instructions %" PRIu64 "\n", num_instructions);
  }
}

EXPORTED int qemu_plugin_install(plugin_id id, const void *info, int argc,
                                 char **argv) {
  (void)info, (void)argc, (void)argv;
  qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
  qemu_plugin_register_vcpu_syscall_cb(id, on_syscall);
  return 0;
}
