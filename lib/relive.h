/* librelive: put running processes back to an earlier state, from C and from whatever can call C.
 *
 *     relive_process *server;
 *     relive_error *error;
 *     if (relive_adopt(4242, NULL, &server, &error) != RELIVE_OK ||
 *         relive_snapshot(server, NULL, NULL, &error) != RELIVE_OK ||
 *         relive_rollback(server, "snap-1", NULL, NULL, &error) != RELIVE_OK) {
 *       fprintf(stderr, "%s\n", error->message);
 *       relive_error_free(error);
 *     }
 *
 * What it does, and what it cannot do, is what the commands `relive snapshot`, `rollback`, `diff`, `list` and `drop`
 * do: the same code asks the same keeper. No process is started for a rollback: it is one message over a socket and its
 * answer.
 *
 * The keeper. The first snapshot of a process starts its keeper, a process of its own that outlives the caller and is
 * shared with the commands. It is the program `relive` of the same release, which is looked for in this order:
 *   1. the path in the environment variable RELIVE_PROGRAM, and nowhere else where that is set;
 *   2. bin/relive of the prefix that librelive.so lies in (../bin and ../../bin, seen from its directory);
 *   3. the directories of PATH.
 * Where keepers are found is told by RELIVE_RUNTIME_DIR, as for the commands (docs/protocol.md).
 *
 * Errors. Every function that can fail returns a code, RELIVE_OK if it did what it is for. If `error` is not NULL,
 * *error is set: to NULL with RELIVE_OK, else to an error that the caller frees. A rollback that was refused or broken
 * off is a failure that has a report as well.
 *
 * Ownership. What a function returns through a pointer belongs to the caller, who frees it with the _free (or _release)
 * function of its type; those take NULL. All that hangs on it (texts, lists, errors in a report) goes with it.
 * Arguments are read during the call only. Texts are UTF-8 where the process' own names are; they are bytes, and end at
 * the first NUL.
 *
 * Threads. Any function may be called from any thread, also for one handle: its calls are made one after the other. Two
 * handles (or a handle and a command) that change one process at the same time do not wait for each other: the second
 * gets RELIVE_BUSY. What was returned is never changed and may be read from any thread. No function may be called from
 * a signal handler. A handle holds no descriptor and no thread: it stays usable after fork(2), in both processes,
 * unless another thread was in a call with it. Starting a keeper forks once, waits for that child, and so raises
 * SIGCHLD.
 *
 * ABI. Structures that the library returns grow at their end only, and are never copied by the caller; structures that
 * the caller passes begin with their size. Enumerations get new values at their end.
 */
#ifndef RELIVE_H
#define RELIVE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#if defined(__GNUC__)
#define RELIVE_API __attribute__((visibility("default")))
#else
#define RELIVE_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* "0.1.0" */
RELIVE_API const char* relive_version(void);

typedef enum relive_code {
  RELIVE_OK = 0,
  RELIVE_USAGE = 1,     /* the arguments are wrong: call again, corrected */
  RELIVE_NOT_FOUND = 2, /* no such process, snapshot, keeper, program */
  RELIVE_REFUSED = 3, /* something in the process cannot be put back, or remembered; it is named; nothing was changed */
  RELIVE_PERMISSION = 4,  /* the kernel does not let this user do it */
  RELIVE_BUSY = 5,        /* another command, handle or debugger is at work on the process: try later */
  RELIVE_UNSUPPORTED = 6, /* this kernel, machine or release lacks what is needed */
  RELIVE_TASK_DIED = 7,   /* the process ended meanwhile */
  RELIVE_SYSTEM = 8,      /* a system call failed that should not fail, or there is no memory */
  RELIVE_INJECTED = 9,    /* a fault that a test asked for (RELIVE_FAULT) */
  RELIVE_TIMEOUT = 10,    /* no answer in time; the keeper goes on with what it was asked */
  RELIVE_STOPPED = 11,    /* a rollback was broken off by the kernel: the process is left stopped */
  RELIVE_KILLED = 12      /* the same, and it was killed (kill_on_failure) */
} relive_code;

/* "refused", "timeout", ... */
RELIVE_API const char* relive_code_name(relive_code code);

typedef struct relive_error {
  relive_code code;
  int errno_value;     /* of the system call that failed, else 0 */
  const char* message; /* the whole story in one line, with what to do next */
  const char* what;    /* what happened to which object */
  const char* hint;    /* what to do next; may be empty */
  const char* json;    /* {"error": {...}}, as the commands print it with --json */
} relive_error;

RELIVE_API void relive_error_free(relive_error* error);

/* A process and its descendants. */
typedef struct relive_process relive_process;

typedef struct relive_adopt_options {
  size_t size;        /* sizeof(relive_adopt_options) */
  int32_t timeout_ms; /* for the answer to each request; 0: as long as it takes */
  const char* caller; /* what others are told about who is at work on the process; NULL: "librelive" */
} relive_adopt_options;

/* A handle for the process that has this pid now: a later process with the same pid is not meant. Looks, changes
 * nothing. */
RELIVE_API relive_code relive_adopt(pid_t pid, const relive_adopt_options* options, relive_process** process,
                                    relive_error** error);
/* The handle goes. The process and its snapshots stay: relive_drop() is what forgets them. */
RELIVE_API void relive_release(relive_process* process);
RELIVE_API pid_t relive_pid(const relive_process* process);

typedef struct relive_snapshot_info {
  const char* name;
  pid_t pid;
  int64_t created_ns; /* CLOCK_REALTIME */
  uint64_t tasks;     /* processes */
  uint64_t threads;
  uint64_t mappings;
  uint64_t pages; /* with contents of their own */
  uint64_t descriptors;
  const char* tracker;
  const char* command;
  const char* const* directories; /* whose files go back, too */
  size_t directory_count;
  uint64_t files; /* in them */
  uint64_t file_bytes;
} relive_snapshot_info;

typedef struct relive_snapshot_options {
  size_t size;         /* sizeof(relive_snapshot_options) */
  const char* name;    /* NULL: the first free snap-N */
  int replace;         /* if there is one of that name, forget it */
  const char* tracker; /* "uffd", "soft-dirty", "compare"; NULL: the best. First snapshot of a process only */
  const char* const* directories; /* what lies below them goes back, too (docs/files.md) */
  size_t directory_count;
  const char* store; /* where copies of these files lie; NULL: beside them */
  int take_events;   /* unread inotify events, too: for a moment they are out of their queue */
} relive_snapshot_options;

typedef struct relive_snapshot_report {
  const relive_snapshot_info* info;
  uint64_t frozen_us; /* first thread stopped to last one let go */
  uint64_t total_us;  /* the call */
  uint64_t pages_copied;
  const char* const* notes; /* what was found on the way: a keeper that had died, ... */
  size_t note_count;
  const char* json; /* the whole report, as `relive snapshot --json` prints it */
} relive_snapshot_report;

/* Remembers the process as it is now. `report` may be NULL. */
RELIVE_API relive_code relive_snapshot(relive_process* process, const relive_snapshot_options* options,
                                       relive_snapshot_report** report, relive_error** error);
RELIVE_API void relive_snapshot_report_free(relive_snapshot_report* report);

/* What became of the process (docs/failure-model.md). */
typedef enum relive_fate {
  RELIVE_FATE_DONE = 0,      /* it is at the snapshot */
  RELIVE_FATE_UNTOUCHED = 1, /* it is as before the call */
  RELIVE_FATE_STOPPED = 2,
  RELIVE_FATE_KILLED = 3
} relive_fate;

/* Something that cannot be put back, by name. */
typedef struct relive_refusal {
  const char* object;
  const char* reason;
  const char* hint;
} relive_refusal;

/* How long a part of a rollback took. */
typedef struct relive_stage {
  const char* name;
  uint64_t us;
} relive_stage;

typedef struct relive_rollback_options {
  size_t size;         /* sizeof(relive_rollback_options) */
  int dry_run;         /* say what would be done (`plan`), and do nothing */
  int kill_on_failure; /* if the kernel breaks it off half way: kill the process instead of leaving it stopped */
} relive_rollback_options;

typedef struct relive_rollback_report {
  relive_fate fate;
  uint64_t frozen_us; /* first thread stopped to last one let go */
  uint64_t total_us;  /* the call */
  uint64_t tasks;
  uint64_t threads;     /* changed, made or ended */
  uint64_t pages;       /* put back */
  uint64_t mappings;    /* operations */
  uint64_t descriptors; /* operations */
  uint64_t files;       /* put back, and removed */
  uint64_t file_bytes;  /* written into them */
  const char* tracker;
  const relive_stage* const* stages;
  size_t stage_count;
  const char* const* notes; /* what did not go back and is no reason to refuse: connections whose peers are gone, ... */
  size_t note_count;
  const relive_refusal* const* refusals; /* why it is untouched */
  size_t refusal_count;
  const char* const* plan; /* of a dry run: the operations as text */
  size_t plan_count;
  const char* json; /* the whole report, as `rollback --json` prints it */
} relive_rollback_report;

/* Puts the process back to a snapshot, or (`snapshot` has a '/' in it) to the image in that directory. `report` may be
 * NULL; it is set whenever there is one, also with RELIVE_REFUSED, RELIVE_STOPPED, RELIVE_KILLED, else to NULL. */
RELIVE_API relive_code relive_rollback(relive_process* process, const char* snapshot,
                                       const relive_rollback_options* options, relive_rollback_report** report,
                                       relive_error** error);
RELIVE_API void relive_rollback_report_free(relive_rollback_report* report);

typedef struct relive_difference {
  const char* family; /* "thread", "mapping", "page", "descriptor", "signal", "timer", "process", "file" */
  char sign;          /* '+' since the snapshot, '-' gone since, '~' changed since */
  const char* object;
  const char* text;
  uint64_t pages; /* of family "page" */
} relive_difference;

typedef struct relive_diff_report {
  const relive_difference* const* differences;
  size_t difference_count;
  const relive_refusal* const* refusals; /* none: it can go back */
  size_t refusal_count;
  uint64_t frozen_us;
  const char* json; /* as `relive diff --json` prints it */
} relive_diff_report;

/* What has changed since. The process stands still while it is read. */
RELIVE_API relive_code relive_diff(relive_process* process, const char* snapshot, relive_diff_report** report,
                                   relive_error** error);
RELIVE_API void relive_diff_report_free(relive_diff_report* report);

typedef struct relive_list_report {
  const relive_snapshot_info* const* snapshots;
  size_t snapshot_count;
  const char* json; /* as `relive list --json` prints it */
} relive_list_report;

/* The snapshots of the process; none if it never had any. */
RELIVE_API relive_code relive_list(relive_process* process, relive_list_report** report, relive_error** error);
RELIVE_API void relive_list_report_free(relive_list_report* report);

/* Forgets a snapshot; NULL: all of them, and it is no error if there is none. With the last one everything of relive's
 * leaves the process, and its keeper ends. */
RELIVE_API relive_code relive_drop(relive_process* process, const char* snapshot, relive_error** error);

/* The `json` of each, for languages that would rather not know how structures are laid out. Lives as long as its
 * report. */
RELIVE_API const char* relive_error_json(const relive_error* error);
RELIVE_API const char* relive_snapshot_report_json(const relive_snapshot_report* report);
RELIVE_API const char* relive_rollback_report_json(const relive_rollback_report* report);
RELIVE_API const char* relive_diff_report_json(const relive_diff_report* report);
RELIVE_API const char* relive_list_report_json(const relive_list_report* report);

#ifdef __cplusplus
}
#endif

#endif
