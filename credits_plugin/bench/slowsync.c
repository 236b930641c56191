/* LD_PRELOAD shim: every fsync and fdatasync takes SLOWSYNC_US microseconds and touches no disk.
   On a RAM disk this makes durability cost the same on every machine and at every minute. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>

static void wait_(void) {
  static long microseconds = -1;
  static __thread int ready = 0;
  struct timespec until;
  if (microseconds < 0) {
    const char *text = getenv("SLOWSYNC_US");
    microseconds = text ? atol(text) : 0;
  }
  if (!ready) {
    prctl(PR_SET_TIMERSLACK, 1000UL, 0, 0, 0);
    ready = 1;
  }
  clock_gettime(CLOCK_MONOTONIC, &until);
  until.tv_nsec += microseconds * 1000;
  until.tv_sec += until.tv_nsec / 1000000000;
  until.tv_nsec %= 1000000000;
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, 0) != 0) {
  }
}

int fsync(int fd) {
  (void)fd;
  wait_();
  return 0;
}

int fdatasync(int fd) {
  (void)fd;
  wait_();
  return 0;
}

int sync_file_range(int fd, long offset, long length, unsigned flags) {
  (void)fd;
  (void)offset;
  (void)length;
  (void)flags;
  return 0;
}
