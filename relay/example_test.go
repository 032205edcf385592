package relay_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/textproto"
	"strings"

	"github.com/emersion/go-smtp"

	"postern/relay"
	"postern/relay/message"
)

// A Router sends a message to a next hop, which is a small SMTP server here.
func ExampleNew() {
	hop, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer hop.Close()
	go serveSMTP(hop)

	cfg := relay.Defaults()
	cfg.NextHops = make([]relay.HopURL, 1)
	if err := cfg.NextHops[0].UnmarshalText([]byte("smtp://" + hop.Addr().String())); err != nil {
		fmt.Println(err)
		return
	}
	router, err := relay.New(cfg, relay.NewLog(slog.New(slog.DiscardHandler)))
	if err != nil {
		fmt.Println(err)
		return
	}
	chain := relay.NewChain(router) // decorators, such as a signer, would follow here
	defer chain.Close()

	ctx := context.Background()
	tx, err := chain.Begin(ctx, &relay.Envelope{Login: "alice", Sender: "alice@example.org"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer tx.Close()
	for _, to := range []string{"bob@example.com", "unknown@example.com"} {
		err := tx.Rcpt(ctx, to, &smtp.RcptOptions{})
		fmt.Println(to, err)
	}

	w := message.NewStage("", 1<<20).New(message.Options{})
	io.WriteString(w, "From: alice@example.org\r\n\r\nHello, Bob\r\n")
	m, err := w.Message()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer m.Close()
	receipt, err := tx.Send(ctx, m)
	fmt.Println(receipt.Text, receipt.QueueID(), err)
	// Output:
	// bob@example.com <nil>
	// unknown@example.com SMTP error 550: No such user
	// 2.0.0 Ok: queued as 4ZxY1b2c3d 4ZxY1b2c3d <nil>
}

// serveSMTP accepts every message, but not for unknown users.
func serveSMTP(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			conn := textproto.NewConn(c)
			conn.PrintfLine("220 hop.example.com ESMTP")
			for {
				line, err := conn.ReadLine()
				if err != nil {
					return
				}
				switch verb, _, _ := strings.Cut(line, " "); {
				case strings.Contains(line, "<unknown@"):
					conn.PrintfLine("550 5.1.1 No such user")
				case verb == "DATA":
					conn.PrintfLine("354 End data with <CR><LF>.<CR><LF>")
					if _, err := conn.ReadDotBytes(); err != nil {
						return
					}
					conn.PrintfLine("250 2.0.0 Ok: queued as 4ZxY1b2c3d")
				case verb == "QUIT":
					conn.PrintfLine("221 2.0.0 Bye")
					return
				default:
					conn.PrintfLine("250 2.0.0 Ok")
				}
			}
		}()
	}
}
