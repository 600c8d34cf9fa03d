package accounts

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/mail"
)

// Mailer takes a mail over, or says why not.
type Mailer interface {
	Send(ctx context.Context, m mail.Message) error
}

const (
	postQueue   = 256 // mails that wait
	postWorkers = 4
	postLookup  = 5 * time.Second  // for the account and its token
	postAttempt = 10 * time.Second // for one attempt at sending
	// postAttempts with their pauses take at most 47 s, so that a server that is away makes
	// the queue full and is not waited for.
	postAttempts = 4
	postPause    = time.Second // before the second attempt, doubled, of which a random part
	// postDrain is how long a stopping process goes on sending what waits.
	postDrain = 5 * time.Second
)

// letter is a mail that is wanted; nobody has looked yet whether there is such an account.
type letter struct {
	why   purpose
	email string
}

// post is the mails that wait. What waits is in memory alone: of a process that dies the
// people ask again.
type post struct {
	mailer Mailer
	link   func(path, token string) string
	queue  chan letter
	pause  time.Duration
}

// Forgot lets a mail with a link to a new password be sent to the address, if it is an
// account's. All that it does itself is to queue, which takes and says the same for every
// address; it is the fault overloaded when the queue is full. Without a mailer it does
// nothing.
func (s *Service) Forgot(email string) error {
	if s.post == nil || s.post.put(letter{resetPassword, email}) {
		return nil
	}
	e := fault.New(fault.Unavailable, "overloaded", "Too many mails are waiting.")
	e.RetryAfter = 10 * time.Second
	return e
}

func (p *post) put(l letter) bool {
	select {
	case p.queue <- l:
		return true
	default:
		return false
	}
}

// welcome queues the mail by which a new account's address is verified. A registration
// does not fail for it: an unverified address restricts nothing, and a password reset
// verifies it as well.
func (s *Service) welcome(ctx context.Context, email string) {
	if s.post != nil && !s.post.put(letter{verifyEmail, email}) {
		s.log.WarnContext(ctx, "too many mails are waiting, one to verify an address is not sent")
	}
}

// Run sends the mails that were queued until ctx ends, then what is still waiting, for 5 s at
// most. It owns the goroutines that send.
func (s *Service) Run(ctx context.Context) error {
	if s.post == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var all sync.WaitGroup
	for range postWorkers {
		all.Go(func() {
			for {
				select {
				case l := <-s.post.queue:
					s.deliver(work, l)
				case <-ctx.Done():
					s.drain(work)
					return
				}
			}
		})
	}
	<-ctx.Done()
	late := time.AfterFunc(postDrain, stop)
	defer late.Stop()
	all.Wait()
	return ctx.Err()
}

func (s *Service) drain(work context.Context) {
	for {
		select {
		case l := <-s.post.queue:
			if work.Err() != nil {
				s.log.Warn("a mail was not sent before the end")
				continue
			}
			s.deliver(work, l)
		default:
			return
		}
	}
}

// deliver makes the token and sends the mail. What goes wrong is said in the log alone,
// without the address.
func (s *Service) deliver(ctx context.Context, l letter) {
	looking, cancel := context.WithTimeout(ctx, postLookup)
	defer cancel()
	token, err := s.issueMailToken(looking, l.why, l.email)
	if err != nil {
		s.log.WarnContext(ctx, "mail not sent", "error", err)
		return
	}
	if token == "" {
		return
	}
	to, _ := normaliseEmail(l.email)
	if err := s.post.send(ctx, s.post.write(l.why, to, token)); err != nil {
		s.log.WarnContext(ctx, "mail not sent", "error", err)
		// It shall not count against those that are sent.
		withdrawing, cancel := context.WithTimeout(context.WithoutCancel(ctx), postLookup)
		defer cancel()
		if err := s.withdrawMailToken(withdrawing, token); err != nil {
			s.log.WarnContext(ctx, "token of a mail that was not sent stays until it expires", "error", err)
		}
	}
}

func (p *post) send(ctx context.Context, m mail.Message) error {
	pause := p.pause
	for attempt := 1; ; attempt++ {
		sending, cancel := context.WithTimeout(ctx, postAttempt)
		err := p.mailer.Send(sending, m)
		cancel()
		if err == nil {
			return nil
		}
		if mail.Permanent(err) || attempt == postAttempts {
			return fmt.Errorf("attempt %d: %w", attempt, err)
		}
		timer := time.NewTimer(rand.N(pause) + 1)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("attempt %d, and no time for more: %w", attempt, err)
		}
		pause *= 2
	}
}

// Paths of the front end that take a token. It is in the fragment, which browsers send to
// nobody: it gets into no log and no Referer.
const (
	resetPath  = "/reset-password"
	verifyPath = "/verify-email"
)

// write puts a mail into words. It holds the link and nothing about anybody.
func (p *post) write(why purpose, to, token string) mail.Message {
	if why == resetPassword {
		return mail.Message{To: to, Subject: "Choose a new Bond Mate password", Text: "Hello,\n\n" +
			"somebody, probably you, asked for a new password for the Bond Mate account with this e-mail address.\n" +
			"To choose one, open this link within one hour:\n\n" + p.link(resetPath, token) + "\n\n" +
			"It works once, and signs out all your devices.\n" +
			"If it was not you, do nothing: your password stays as it is.\n"}
	}
	return mail.Message{To: to, Subject: "Confirm your e-mail address", Text: "Hello,\n\n" +
		"a Bond Mate account was made with this e-mail address. If it is yours, open this link within two days:\n\n" +
		p.link(verifyPath, token) + "\n\n" +
		"If you made no account, do nothing.\n"}
}
