// SPDX-License-Identifier: MIT
// What the machine itself can do, as one program in three files. Each part prints lines
// "name,parameter,processes,best,median,unit".
#ifndef PEERS_LIMITS_H
#define PEERS_LIMITS_H

// `repeats`: samples behind each best and median, 1 .. LIMITS_MAX_REPEATS.
#define LIMITS_MAX_REPEATS 64
void limits_memory(int repeats);
void limits_streams(int repeats);
void limits_latency(int repeats);

double limits_now_us(void);

// Prints one line from the times of `n` samples; each value is work / time, or time alone when work
// is 0.
void limits_print(const char *name, const char *parameter, int processes, double *times_us, int n,
                  double work, const char *unit);

// Memory shared with children; ends the process on failure.
void *limits_shared(unsigned long bytes);

// Forks the other of two processes, each bound to a processor of its own (or both to the first,
// `together`), and returns which one the caller is: 0 for the parent.
int limits_two(int together);

// Ends the child, and waits for it in the parent.
void limits_join(int me);

#endif
