// Command app is the program in the containers of tests. It is static and its own image.
//
//	app                  run until SIGTERM, then exit 0
//	app exit N           exit with N
//	app stubborn         run and ignore SIGTERM
//	app serve PORT FILE  answer HTTP with 200 while FILE exists ("-": always), else with 503
//	app say WORDS…       write WORDS to stdout, then run
//	app cat FILE…        write FILES to stdout
//	app die FILE WORDS   write WORDS to FILE and exit 1
//	app count FILE       append the line "ran" to FILE, then run
//	app env              write the environment and exit
//	app id               write uid, gid, groups, seccomp mode and no_new_privs, and exit
//	app spam BYTES       write that many bytes to stdout in lines of 100, then run
//	app sleep SECONDS    exit with 0 after SECONDS
//	app eat BYTES        use that much memory, then run
package main

import (
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	args := append(os.Args[1:], "", "", "")
	switch args[0] {
	case "exit":
		code, _ := strconv.Atoi(args[1])
		os.Exit(code)
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
		time.Sleep(time.Hour)
	case "serve":
		go serve(args[1], args[2])
	case "say":
		fmt.Println(strings.Join(os.Args[2:], " "))
	case "cat":
		for _, path := range os.Args[2:] {
			data, err := os.ReadFile(path)
			if err != nil {
				fmt.Println(err)
				os.Exit(1)
			}
			os.Stdout.Write(data)
		}
		return
	case "die":
		if err := os.WriteFile(args[1], []byte(args[2]), 0o644); err != nil {
			fmt.Println(err)
		}
		os.Exit(1)
	case "count":
		f, err := os.OpenFile(args[1], os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o666)
		if err == nil {
			_, err = f.WriteString("ran\n")
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	case "env":
		for _, e := range os.Environ() {
			fmt.Println(e)
		}
		return
	case "id":
		groups, _ := os.Getgroups()
		fmt.Println("uid", os.Getuid(), "gid", os.Getgid(), "groups", groups)
		status, _ := os.ReadFile("/proc/self/status")
		for line := range strings.SplitSeq(string(status), "\n") {
			if strings.HasPrefix(line, "Seccomp:") || strings.HasPrefix(line, "NoNewPrivs:") || strings.HasPrefix(line, "CapEff:") {
				fmt.Println(line)
			}
		}
		return
	case "spam":
		n, _ := strconv.Atoi(args[1])
		for line := strings.Repeat("x", 99) + "\n"; n > 0; n -= len(line) {
			fmt.Print(line)
		}
	case "eat":
		n, _ := strconv.Atoi(args[1])
		eaten := make([]byte, n)
		for i := 0; i < n; i += os.Getpagesize() {
			eaten[i] = 1
		}
		fmt.Println("ate", len(eaten))
	case "sleep":
		seconds, _ := strconv.ParseFloat(args[1], 64)
		time.Sleep(time.Duration(seconds * float64(time.Second)))
		return
	}
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	<-end
}

func serve(port, file string) {
	err := http.ListenAndServe(":"+port, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if file != "-" {
			if _, err := os.Stat(file); err != nil {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
		}
		fmt.Fprintln(w, "ok")
	}))
	fmt.Println(err)
	os.Exit(1)
}
