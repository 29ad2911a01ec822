// A C program that uses librelive, and judges it: a child counts what it is told to, goes back to a snapshot several
// times, and goes on. Built in the tree, and once more against an installed library (installed.py). Prints nothing if
// all is well.
#include <errno.h>
#include <pthread.h>
#include <relive.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static pid_t child;

static void fail(int line, const char* what, const relive_error* error) {
  fprintf(stderr, "consumer.c:%d: %s%s%s\n", line, what, error != NULL ? ": " : "",
          error != NULL ? error->message : "");
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
  exit(1);
}
#define MUST(condition, error)                             \
  do {                                                     \
    if (!(condition)) fail(__LINE__, #condition, (error)); \
  } while (0)

// Adds what it reads to a sum, and answers with it.
static void count(int connection) {
  long sum = 0;
  for (long number; read(connection, &number, sizeof number) == sizeof number;) {
    sum += number;
    if (write(connection, &sum, sizeof sum) != sizeof sum) break;
  }
  _exit(0);
}

static int connection;

static long add(long number) {
  long sum = -1;
  MUST(write(connection, &number, sizeof number) == sizeof number, NULL);
  MUST(read(connection, &sum, sizeof sum) == sizeof sum, NULL);
  return sum;
}

static void expect_error(int line, relive_code got, relive_code want, relive_error* error) {
  if (got != want || error == NULL || error->code != want || error->message[0] == '\0' ||
      strstr(error->json, "\"error\"") == NULL)
    fail(line, relive_code_name(got), error);
  relive_error_free(error);
}
#define EXPECT_ERROR(want, ...)                    \
  do {                                             \
    relive_error* error_ = NULL;                   \
    const relive_code code_ = __VA_ARGS__;         \
    expect_error(__LINE__, code_, (want), error_); \
  } while (0)

static void errors_tell_what_to_do(relive_process* process) {
  relive_process* none = (relive_process*)1;
  EXPECT_ERROR(RELIVE_REFUSED, relive_adopt(getpid(), NULL, &none, &error_));
  MUST(none == NULL, NULL);
  EXPECT_ERROR(RELIVE_USAGE, relive_adopt(-1, NULL, &none, &error_));
  EXPECT_ERROR(RELIVE_USAGE, relive_adopt(child, NULL, NULL, &error_));
  const relive_adopt_options unfilled = {.size = 0, .timeout_ms = 1, .caller = NULL};
  EXPECT_ERROR(RELIVE_USAGE, relive_adopt(child, &unfilled, &none, &error_));
  EXPECT_ERROR(RELIVE_NOT_FOUND, relive_rollback(process, "nothing", NULL, NULL, &error_));
  EXPECT_ERROR(RELIVE_USAGE, relive_rollback(process, "bad name", NULL, NULL, &error_));
  EXPECT_ERROR(RELIVE_USAGE, relive_rollback(process, NULL, NULL, NULL, &error_));
  relive_snapshot_options options = {.size = sizeof options, .name = "x", .tracker = "none such"};
  EXPECT_ERROR(RELIVE_USAGE, relive_snapshot(process, &options, NULL, &error_));
  const char* const nowhere[] = {"/no/such/directory"};
  relive_snapshot_options files = {.size = sizeof files, .directories = nowhere, .directory_count = 1};
  EXPECT_ERROR(RELIVE_USAGE, relive_snapshot(process, &files, NULL, &error_));
  MUST(relive_rollback(process, "nothing", NULL, NULL, NULL) == RELIVE_NOT_FOUND, NULL);
}

static void a_keeper_needs_its_program(relive_process* process) {
  char* const before = getenv("RELIVE_PROGRAM") != NULL ? strdup(getenv("RELIVE_PROGRAM")) : NULL;
  setenv("RELIVE_PROGRAM", "/no/such/program", 1);
  relive_error* error = NULL;
  MUST(relive_snapshot(process, NULL, NULL, &error) == RELIVE_NOT_FOUND, error);
  MUST(strstr(error->message, "/no/such/program") != NULL && strstr(error->hint, "RELIVE_PROGRAM") != NULL, error);
  relive_error_free(error);
  if (before != NULL)
    setenv("RELIVE_PROGRAM", before, 1);
  else
    unsetenv("RELIVE_PROGRAM");
  free(before);
}

static void goes_back(relive_process* process) {
  relive_error* error = NULL;
  relive_snapshot_report* taken = NULL;
  MUST(add(5) == 5, NULL);
  const relive_snapshot_options options = {.size = sizeof options, .name = "five"};
  MUST(relive_snapshot(process, &options, &taken, &error) == RELIVE_OK && error == NULL, error);
  MUST(strcmp(taken->info->name, "five") == 0 && taken->info->pid == child && taken->info->threads == 1, NULL);
  MUST(taken->info->pages > 0 && taken->frozen_us > 0 && taken->total_us >= taken->frozen_us, NULL);
  MUST(strstr(taken->json, "\"snapshot\": \"five\"") != NULL, NULL);
  relive_snapshot_report_free(taken);
  EXPECT_ERROR(RELIVE_USAGE, relive_snapshot(process, &options, NULL, &error_));  // the name is taken

  for (int round = 1; round <= 5; ++round) {
    MUST(add(round) == 5 + round, NULL);
    relive_diff_report* diff = NULL;
    MUST(relive_diff(process, "five", &diff, &error) == RELIVE_OK, error);
    MUST(diff->difference_count > 0 && diff->refusal_count == 0 && diff->differences[0]->sign == '~', NULL);
    relive_diff_report_free(diff);
    const relive_rollback_options dry = {.size = sizeof dry, .dry_run = 1};
    relive_rollback_report* report = NULL;
    MUST(relive_rollback(process, "five", &dry, &report, &error) == RELIVE_OK, error);
    MUST(report->plan_count > 0 && report->plan[0][0] != '\0', NULL);
    relive_rollback_report_free(report);
    MUST(add(0) == 5 + round, NULL);
    MUST(relive_rollback(process, "five", NULL, &report, &error) == RELIVE_OK && error == NULL, error);
    MUST(report->fate == RELIVE_FATE_DONE && report->pages > 0 && report->frozen_us > 0, NULL);
    MUST(report->stage_count > 0 && report->refusal_count == 0 && strstr(report->json, "\"fate\": \"done\""), NULL);
    relive_rollback_report_free(report);
    MUST(add(0) == 5, NULL);
  }
}

static void* roll_back_often(void* process) {
  for (int i = 0; i < 20; ++i) {
    relive_error* error = NULL;
    if (relive_rollback(process, "five", NULL, NULL, &error) != RELIVE_OK) return error;
  }
  return NULL;
}

static void one_handle_serves_many_threads(relive_process* process) {
  pthread_t threads[4];
  for (int i = 0; i < 4; ++i) MUST(pthread_create(&threads[i], NULL, roll_back_often, process) == 0, NULL);
  for (int i = 0; i < 4; ++i) {
    void* error = NULL;
    pthread_join(threads[i], &error);
    MUST(error == NULL, error);
  }
}

static void lists_and_drops(relive_process* process) {
  relive_error* error = NULL;
  relive_list_report* list = NULL;
  MUST(relive_list(process, &list, &error) == RELIVE_OK, error);
  MUST(list->snapshot_count == 1 && strcmp(list->snapshots[0]->name, "five") == 0, NULL);
  relive_list_report_free(list);
  MUST(relive_drop(process, "five", &error) == RELIVE_OK, error);
  MUST(relive_drop(process, NULL, &error) == RELIVE_OK, error);  // there is none any more
  MUST(relive_list(process, &list, &error) == RELIVE_OK && list->snapshot_count == 0, error);
  relive_list_report_free(list);
}

int main(void) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return 2;
  child = fork();
  if (child < 0) return 2;
  if (child == 0) {
    close(ends[0]);
    count(ends[1]);
  }
  close(ends[1]);
  connection = ends[0];
  relive_error* error = NULL;
  relive_process* process = NULL;
  const relive_adopt_options options = {.size = sizeof options, .timeout_ms = 60000, .caller = "consumer"};
  MUST(relive_adopt(child, &options, &process, &error) == RELIVE_OK, error);
  MUST(relive_pid(process) == child, NULL);
  errors_tell_what_to_do(process);
  a_keeper_needs_its_program(process);
  goes_back(process);
  one_handle_serves_many_threads(process);
  lists_and_drops(process);
  MUST(add(1) == 6, NULL);
  close(connection);
  waitpid(child, NULL, 0);
  EXPECT_ERROR(RELIVE_NOT_FOUND, relive_snapshot(process, NULL, NULL, &error_));  // it has ended
  relive_release(process);
  relive_release(NULL);
  relive_error_free(NULL);
  return 0;
}
