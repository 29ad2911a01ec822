// How tests of a server use relive: started and seeded once, put back before each test.
#include <csignal>
#include <string>

#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bindings/gtest/relive_gtest.h"

namespace {

// The server: remembers orders, one letter each, and answers with all of them.
[[noreturn]] void serve(int connection) {
  std::string orders;
  for (char order = 0; ::read(connection, &order, 1) == 1;) {
    if (order != '?') orders += order;
    const std::string answer = orders + "\n";
    if (::write(connection, answer.data(), answer.size()) < 0) break;
  }
  ::_exit(0);
}

class Shop : public relive_gtest::FromSnapshot {
 protected:
  static void SetUpTestSuite() {
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    pid = ::fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
      ::close(ends[0]);
      serve(ends[1]);
    }
    ::close(ends[1]);
    connection = ends[0];
    ASSERT_EQ(ask('t'), "t");
    begin(pid);
  }
  static void TearDownTestSuite() {
    end();
    ASSERT_EQ(ask('?'), "tr") << "it runs on from the last test's state";
    ::close(connection);
    ::waitpid(pid, nullptr, 0);
  }

  static std::string ask(char order) {
    std::string answer;
    if (::write(connection, &order, 1) != 1) return "cannot write";
    for (char c = 0; ::read(connection, &c, 1) == 1 && c != '\n';) answer += c;
    return answer;
  }

  static pid_t pid;
  static int connection;  // open at the snapshot: goes on
};

pid_t Shop::pid = -1;
int Shop::connection = -1;

TEST_F(Shop, TakesAnOrderOfMilk) { EXPECT_EQ(ask('m'), "tm"); }
TEST_F(Shop, TakesAnOrderOfBread) { EXPECT_EQ(ask('b'), "tb"); }
TEST_F(Shop, HasNoOrderButTheFirst) { EXPECT_EQ(ask('?'), "t"); }
TEST_F(Shop, TakesAnOrderOfRice) { EXPECT_EQ(ask('r'), "tr"); }

TEST(Stack, SaysWhatIsInTheWay) { EXPECT_THROW(relive_gtest::Stack itself(::getpid()), std::runtime_error); }

}  // namespace
