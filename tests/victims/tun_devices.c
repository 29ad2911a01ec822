// Tun and tap devices, in a network namespace of their own: with an interface that goes with the descriptor, with one
// that stays, and with none. Closed, replaced, set otherwise, given packets since.
#include "victim.h"

#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

enum { kTun, kTap, kStays, kFresh, DEVICES };
#define FD(i) (360 + (i))
static const char* const names[DEVICES] = {"rltun", "rltap", "rlstays", ""};
static const int flags[DEVICES] = {IFF_TUN | IFF_NO_PI, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, IFF_TAP, 0};

static int buffer_of(int i) { return i == kTap ? 50000 + (int)victim_state : INT32_MAX; }
static int open_at(int i) {
  const int fd = MUST(open("/dev/net/tun", O_RDWR));
  MUST(dup3(fd, FD(i), O_CLOEXEC));
  close(fd);
  return FD(i);
}
static int attach(int i) {
  struct ifreq request = {.ifr_flags = (short)flags[i]};
  strcpy(request.ifr_name, names[i]);
  return ioctl(FD(i), TUNSETIFF, &request);
}
static void set(unsigned state) {
  (void)state;
  const int bytes = buffer_of(kTap);
  CHECK(ioctl(FD(kTap), TUNSETSNDBUF, &bytes) == 0, "TUNSETSNDBUF: %s", strerror(errno));
}
static void make(void) {
  if (unshare(CLONE_NEWNET) != 0) victim_skip("needs tun: a network namespace");
  const int silent = open("/proc/sys/net/ipv6/conf/default/disable_ipv6", O_WRONLY);  // it would send by itself
  if (silent >= 0 && write(silent, "1", 1) != 1) victim_die("disable_ipv6");
  if (silent >= 0) close(silent);
  const int probe = open("/dev/net/tun", O_RDWR);
  if (probe < 0) victim_skip("needs tun: /dev/net/tun");
  close(probe);
  for (int i = 0; i < DEVICES; ++i) {
    open_at(i);
    if (i != kFresh) MUST(attach(i));
  }
  const int header = 12;
  MUST(ioctl(FD(kTap), TUNSETVNETHDRSZ, &header));
  MUST(ioctl(FD(kStays), TUNSETPERSIST, 1));
  fcntl(FD(kTun), F_SETFL, O_RDWR | O_NONBLOCK);
  set(0);
}
static bool interface(const char* name) { return if_nametoindex(name) != 0; }
// The interface is up for as long as it takes to send something through it.
static void send_through(int i) {
  const int control = MUST(socket(AF_INET, SOCK_DGRAM, 0)), out = MUST(socket(AF_PACKET, SOCK_DGRAM, 0));
  struct ifreq request = {0};
  strcpy(request.ifr_name, names[i]);
  MUST(ioctl(control, SIOCGIFFLAGS, &request));
  request.ifr_flags |= IFF_UP;
  MUST(ioctl(control, SIOCSIFFLAGS, &request));
  const struct sockaddr_ll to = {.sll_family = AF_PACKET,
                                 .sll_protocol = htons(0x88b5),
                                 .sll_ifindex = (int)if_nametoindex(names[i]),
                                 .sll_halen = i == kTun ? 0 : 6};
  CHECK(sendto(out, "a packet of some bytes", 22, 0, (const struct sockaddr*)&to, sizeof to) == 22, "sending: %s",
        strerror(errno));
  request.ifr_flags = (short)(request.ifr_flags & ~IFF_UP);
  MUST(ioctl(control, SIOCSIFFLAGS, &request));
  close(control);
  close(out);
}
static void verify(void) {
  int open_ones[3 + DEVICES] = {0, 1, 2};
  for (int i = 0; i < DEVICES; ++i) {
    open_ones[3 + i] = FD(i);
    struct ifreq request = {0};
    const bool attached = ioctl(FD(i), TUNGETIFF, &request) == 0;
    CHECK(attached == (i != kFresh) && strcmp(request.ifr_name, names[i]) == 0, "%d is attached to '%s'", i,
          request.ifr_name);
    if (!attached) continue;
    const int want = flags[i] | IFF_NOFILTER | (i == kStays ? IFF_PERSIST : 0);
    CHECK_EQUAL("flags", (unsigned short)request.ifr_flags, want);
    CHECK(interface(names[i]), "the interface %s is gone", names[i]);
    int value = 0;
    CHECK(ioctl(FD(i), TUNGETSNDBUF, &value) == 0, "TUNGETSNDBUF");
    CHECK_EQUAL("send buffer", value, buffer_of(i));
    CHECK(ioctl(FD(i), TUNGETVNETHDRSZ, &value) == 0, "TUNGETVNETHDRSZ");
    CHECK_EQUAL("header", value, i == kTap ? 12 : 10);
    const int before = fcntl(FD(i), F_GETFL);
    char packet[2048];
    fcntl(FD(i), F_SETFL, before | O_NONBLOCK);
    CHECK(read(FD(i), packet, sizeof packet) < 0 && errno == EAGAIN, "%d has a packet unread", i);
    fcntl(FD(i), F_SETFL, before);
  }
  check_descriptors(open_ones, 3 + DEVICES);
  // What a packet looks like to the program: with the headers that it has asked for, and no others.
  for (int i = 0; i < kFresh; ++i) {
    char packet[256];
    send_through(i);
    CHECK_EQUAL("length of a packet", read(FD(i), packet, sizeof packet),
                22 + (i == kTun   ? 0
                      : i == kTap ? 12 + 14
                                  : 4 + 14));
  }
  CHECK((fcntl(FD(kTun), F_GETFL) & O_NONBLOCK) != 0 && (fcntl(FD(kTap), F_GETFL) & O_NONBLOCK) == 0,
        "the flags differ");
}
static void wreck(unsigned round) {
  switch (round % 5) {
    case 0:
      send_through(kTap);
      send_through(kStays);
      MUST(ioctl(FD(kTap), TUNSETSNDBUF, &(int){9999}));
      MUST(ioctl(FD(kTap), TUNSETVNETHDRSZ, &(int){20}));
      MUST(ioctl(FD(kStays), TUNSETPERSIST, 0));
      break;
    case 1:  // two interfaces go, one stays
      for (int i = 0; i < DEVICES; ++i) close(FD(i));
      break;
    case 2:  // all three go
      MUST(ioctl(FD(kStays), TUNSETPERSIST, 0));
      for (int i = 0; i < DEVICES; ++i) close(FD(i));
      break;
    case 3: {  // another one under the number, and one where there was none
      open_at(kTun);
      struct ifreq request = {.ifr_flags = IFF_TUN, .ifr_name = "rlother"};
      MUST(ioctl(FD(kTun), TUNSETIFF, &request));
      strcpy(request.ifr_name, "rlmore");
      MUST(ioctl(FD(kFresh), TUNSETIFF, &request));
      break;
    }
    default:  // numbers changed
      MUST(dup2(FD(kTap), 370));
      MUST(dup2(FD(kTun), FD(kTap)));
      MUST(dup2(0, FD(kTun)));
  }
}

int main(void) { return victim_main(&(struct victim){.make = make, .verify = verify, .wreck = wreck, .become = set}); }
