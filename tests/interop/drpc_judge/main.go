// Command drpc_judge is a foreign peer for our dRPC over yamux: the two Go libraries that stock programs use, with
// nothing of ours in them.
//
//	drpc_judge serve        listen on loopback, print the address, serve until standard input ends
//	drpc_judge call ADDR    call our server through every shape of RPC; exit status 1 at the first surprise
package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/yamux"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"storj.io/drpc"
	"storj.io/drpc/drpcconn"
	"storj.io/drpc/drpcerr"
	"storj.io/drpc/drpcserver"
)

type protobuf struct{}

func (protobuf) Marshal(msg drpc.Message) ([]byte, error) { return proto.Marshal(msg.(proto.Message)) }
func (protobuf) Unmarshal(buf []byte, msg drpc.Message) error {
	return proto.Unmarshal(buf, msg.(proto.Message))
}

var enc protobuf

func text(value string) *wrapperspb.StringValue { return wrapperspb.String(value) }

func check(ok bool, format string, args ...any) {
	if !ok {
		fmt.Fprintf(os.Stderr, format+"\n", args...)
		os.Exit(1)
	}
}

// ---- serving

type handler struct{ stopped chan struct{} }

func (h handler) HandleRPC(stream drpc.Stream, rpc string) error {
	switch rpc {
	case "/judge/Echo":
		msg := new(wrapperspb.BytesValue)
		if err := stream.MsgRecv(msg, enc); err != nil {
			return err
		}
		return stream.MsgSend(msg, enc)
	case "/judge/Chat":
		for {
			msg := new(wrapperspb.StringValue)
			err := stream.MsgRecv(msg, enc)
			if errors.Is(err, io.EOF) {
				return stream.MsgSend(text("bye"), enc)
			} else if err != nil {
				return err
			}
			if err := stream.MsgSend(text(strings.ToUpper(msg.Value)), enc); err != nil {
				return err
			}
		}
	case "/judge/Forever":
		if err := stream.MsgRecv(new(wrapperspb.StringValue), enc); err != nil {
			return err
		}
		if err := stream.MsgSend(text("started"), enc); err != nil {
			return err
		}
		<-stream.Context().Done()
		h.stopped <- struct{}{}
		return stream.Context().Err()
	case "/judge/Stopped":
		select {
		case <-h.stopped:
			return stream.MsgSend(text("yes"), enc)
		case <-time.After(5 * time.Second):
			return errors.New("the handler was not stopped")
		}
	case "/judge/Fail":
		return drpcerr.WithCode(errors.New("teapot"), 418)
	}
	return drpcerr.WithCode(fmt.Errorf("unknown rpc: %q", rpc), 12)
}

func serve() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err == nil, "listen: %v", err)
	fmt.Println(listener.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	for {
		conn, err := listener.Accept()
		check(err == nil, "accept: %v", err)
		session, err := yamux.Server(conn, nil)
		check(err == nil, "yamux: %v", err)
		server := drpcserver.New(handler{make(chan struct{}, 1)})
		go func() { _ = server.Serve(context.Background(), session) }()
	}
}

// ---- calling

type caller struct{ session *yamux.Session }

func (c caller) conn() *drpcconn.Conn {
	stream, err := c.session.OpenStream()
	check(err == nil, "open: %v", err)
	return drpcconn.New(stream)
}

func (c caller) unary(rpc string, in, out proto.Message) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	conn := c.conn()
	defer conn.Close()
	return conn.Invoke(ctx, rpc, enc, in, out)
}

func call(address string) {
	conn, err := net.Dial("tcp", address)
	check(err == nil, "dial: %v", err)
	session, err := yamux.Client(conn, nil)
	check(err == nil, "yamux: %v", err)
	c := caller{session}

	for i := 0; i < 200; i++ {
		out := new(wrapperspb.BytesValue)
		err := c.unary("/judge/Echo", wrapperspb.Bytes([]byte{byte(i)}), out)
		check(err == nil && out.Value[0] == byte(i), "echo %d: %v", i, err)
	}
	big := make([]byte, 3<<20)
	for i := range big {
		big[i] = byte(i * 7)
	}
	out := new(wrapperspb.BytesValue)
	err = c.unary("/judge/Echo", wrapperspb.Bytes(big), out)
	check(err == nil && sha256.Sum256(out.Value) == sha256.Sum256(big), "big echo: %v", err)

	err = c.unary("/judge/Fail", text(""), text(""))
	check(drpcerr.Code(err) == 418 && strings.Contains(err.Error(), "teapot"), "fail: %v", err)
	err = c.unary("/judge/NoSuch", text(""), text(""))
	check(drpcerr.Code(err) == 12, "unknown rpc: %v", err)

	chat(c)
	cancelled(c)
	_, err = session.Ping()
	check(err == nil, "ping: %v", err)
	check(session.Close() == nil, "close")
	fmt.Println("ok")
}

func chat(c caller) {
	conn := c.conn()
	defer conn.Close()
	stream, err := conn.NewStream(context.Background(), "/judge/Chat", enc)
	check(err == nil, "chat: %v", err)
	answer := new(wrapperspb.StringValue)
	for _, word := range []string{"a", "b"} {
		check(stream.MsgSend(text(word), enc) == nil, "chat: send")
		err := stream.MsgRecv(answer, enc)
		check(err == nil && answer.Value == strings.ToUpper(word), "chat: %v %q", err, answer.Value)
	}
	check(stream.CloseSend() == nil, "chat: close send")
	err = stream.MsgRecv(answer, enc)
	check(err == nil && answer.Value == "bye", "chat: %v %q", err, answer.Value)
	err = stream.MsgRecv(answer, enc)
	check(errors.Is(err, io.EOF), "chat: no end but %v", err)
}

func cancelled(c caller) {
	ctx, cancel := context.WithCancel(context.Background())
	conn := c.conn()
	stream, err := conn.NewStream(ctx, "/judge/Forever", enc)
	check(err == nil, "forever: %v", err)
	check(stream.MsgSend(text("go"), enc) == nil, "forever: send")
	check(stream.MsgRecv(new(wrapperspb.StringValue), enc) == nil, "forever: receive")
	cancel()
	answer := new(wrapperspb.StringValue)
	err = c.unary("/judge/Stopped", text(""), answer)
	check(err == nil && answer.Value == "yes", "cancel: %v", err)
}

func main() {
	switch {
	case len(os.Args) == 2 && os.Args[1] == "serve":
		serve()
	case len(os.Args) == 3 && os.Args[1] == "call":
		call(os.Args[2])
	default:
		fmt.Fprintln(os.Stderr, "usage: drpc_judge serve | call ADDRESS")
		os.Exit(2)
	}
}
