#!/usr/bin/env python3
"""run_vectors.py [--udp4 127.0.0.1:6969] [--udp6 [::1]:6969] [--http4 ...] [--http6 ...] [--only substr] [--timing] [--vectors FILE] [-v]
Plays vectors.json against a FRESH tracker (stateful: do not run twice against one process). Exit 0 when no MUST fails.
Leave a transport empty ('') to skip its vectors."""
import argparse,json,re,socket,struct,sys,time
ap=argparse.ArgumentParser()
for t,d in (('udp4','127.0.0.1:6969'),('udp6','[::1]:6969'),('http4','127.0.0.1:6969'),('http6','[::1]:6969')): ap.add_argument('--'+t,default=d)
ap.add_argument('--only',default=''); ap.add_argument('--timing',action='store_true'); ap.add_argument('--vectors',default=__import__('os').path.join(__import__('os').path.dirname(__import__('os').path.abspath(__file__)),'vectors.json'))
ap.add_argument('--wait',type=float,default=0.25,help='seconds of silence that count as no reply'); ap.add_argument('-v',action='store_true'); ap.add_argument('--no-counts',action='store_true',help='do not compare seeders/leechers in announce replies (some trackers do not count the requester)')
A=ap.parse_args()
def hp(s): h,_,p=s.rpartition(':'); return (h.strip('[]'),int(p))
TGT={t:hp(getattr(A,t)) for t in ('udp4','udp6','http4','http6') if getattr(A,t)}
class Fail(Exception): pass
# ---------------------------------------------------------------- UDP
class Sess:
    def __init__(s): s.sk={}; s.cid={}
    def sock(s,name,tr,src):
        k=(name,tr)
        if k not in s.sk:
            x=socket.socket(socket.AF_INET6 if tr=='udp6' else socket.AF_INET,socket.SOCK_DGRAM); x.bind((src,0)); x.settimeout(A.wait); s.sk[k]=x
        return s.sk[k]
    def connect(s,name,tr,src):
        k=(name,tr)
        if k in s.cid: return s.cid[k]
        x=s.sock(name,tr,src)
        x.sendto(bytes.fromhex('000004172710198000000000'+'7e57c0de'),TGT[tr]); x.settimeout(2)
        try: d,_=x.recvfrom(4096)
        except TimeoutError: raise Fail('no connect reply')
        finally: x.settimeout(A.wait)
        if len(d)<16 or d[:8]!=bytes.fromhex('000000007e57c0de'): raise Fail('bad connect reply '+d.hex())
        s.cid[k]=d[8:16].hex(); return s.cid[k]
    def close(s):
        for x in s.sk.values(): x.close()
def udp_step(S,st,tr,port=None):
    name=st.get('sock','s1'); src=st.get('from','::1' if tr=='udp6' else '127.0.0.1')
    h=st['request_hex']
    if port is not None: h=h.replace('{PORT}','%04x'%port)
    if '{CID}' in h: h=h.replace('{CID}',S.connect(name,tr,src))
    if '{CID^1}' in h: h=h.replace('{CID^1}','%016x'%(int(S.connect(name,tr,src),16)^1))
    for m in re.findall(r'\{CID:(\w+)\}',h):
        k=(m,tr)
        h=h.replace('{CID:%s}'%m,S.cid[k])
    x=S.sock(name,tr,src)
    tgt=(st.get('to_ip',TGT[tr][0]),TGT[tr][1])
    x.sendto(bytes.fromhex(h),tgt)
    x.settimeout(1.5 if st.get('expect',{}).get('reply') else A.wait)
    try: d,a=x.recvfrom(65536)
    except (TimeoutError,ConnectionRefusedError): return None
    if (a[0].split('%')[0],a[1])!=tgt: raise Fail('reply came from %s:%d, not from the address asked'%a[:2])
    if len(d)>=16 and d[:4]==b'\0\0\0\0' and h.startswith('000004172710198000000000'): S.cid[(name,tr)]=d[8:16].hex()
    return d
def fmt(ip,p): return ('[%s]:%d' if ':' in ip else '%s:%d')%(ip,p)
def chk_udp(e,d,S,tr):
    if 'any_of' in e:
        errs=[]
        for o in e['any_of']:
            try: chk_udp(o,d,S,tr); return
            except Fail as x: errs.append(str(x))
        raise Fail(' / '.join(errs))
    if not e['reply']:
        if d is not None: raise Fail('expected silence, got %s'%d.hex()[:120])
        return
    if d is None: raise Fail('expected a reply, got silence')
    h=d.hex()
    if 'hex' in e:
        if not re.fullmatch(e['hex'],h): raise Fail('want %s got %s'%(e['hex'][:140],h[:140]))
    if 'hex_prefix' in e and not h.startswith(e['hex_prefix']): raise Fail('want prefix %s got %s %r'%(e['hex_prefix'],h[:80],d[8:60]))
    if len(d)<e.get('min_len',0) or len(d)>e.get('max_len',1<<20): raise Fail('length %d'%len(d))
    if 'ascii_from' in e:
        t=d[e['ascii_from']:].rstrip(b'\0')
        if not t or any(c<0x20 or c>0x7e for c in t): raise Fail('error text %r'%t)
    if d[8:16].hex() in e.get('cid_not',[]): raise Fail('forbidden connection id')
    if 'cid_differs_from' in e and d[8:16].hex()==S.cid[(e['cid_differs_from'],tr)]: raise Fail('same id for two source addresses')
    if 'announce' in e:
        a=e['announce']; n=18 if tr=='udp6' else 6
        if len(d)<20 or (len(d)-20)%n: raise Fail('announce length %d'%len(d))
        iv,le,se=struct.unpack('>III',d[8:20])
        if not 0<iv<2**31: raise Fail('interval %d'%iv)
        for k,v in (('leechers',le),('seeders',se),('le',le),('se',se)):
            if not A.no_counts and k in a and a[k]!=v: raise Fail('%s %d want %d'%(k,v,a[k]))
        ps=[]
        for i in range(20,len(d),n): ps.append(fmt(socket.inet_ntop(socket.AF_INET6 if n==18 else socket.AF_INET,d[i:i+n-2]),struct.unpack('>H',d[i+n-2:i+n])[0]))
        if len(set(ps))!=len(ps): raise Fail('a peer is listed twice')
        if 'peers' in a and sorted(ps)!=sorted(a['peers']): raise Fail('peers %s want %s'%(ps,a['peers']))
        if 'peer_count' in a and len(ps)!=a['peer_count']: raise Fail('%d peers want %d'%(len(ps),a['peer_count']))
        if len(ps)<a.get('peer_count_min',0) or len(ps)>a.get('peer_count_max',1<<20): raise Fail('%d peers'%len(ps))
        if len(d)>a.get('max_reply',1<<20): raise Fail('reply of %d bytes'%len(d))
# ---------------------------------------------------------------- HTTP
def bdec(b,i=0):
    c=b[i:i+1]
    if c==b'i':
        j=b.index(b'e',i); t=b[i+1:j]
        if not re.fullmatch(rb'0|-?[1-9][0-9]*',t): raise Fail('bad bencode integer %r'%t)
        return int(t),j+1
    if c==b'l':
        o=[];i+=1
        while b[i:i+1]!=b'e': v,i=bdec(b,i); o.append(v)
        return o,i+1
    if c==b'd':
        o={};i+=1;last=None
        while b[i:i+1]!=b'e':
            k,i=bdec(b,i)
            if not isinstance(k,bytes): raise Fail('dict key not a string')
            if last is not None and k<=last: raise Fail('dict keys out of order: %r after %r'%(k,last))
            last=k; v,i=bdec(b,i); o[k]=v
        return o,i+1
    if c.isdigit():
        j=b.index(b':',i); n=int(b[i:j])
        if j+1+n>len(b): raise Fail('string overruns')
        return b[j+1:j+1+n],j+1+n
    raise Fail('not bencode at %d: %r'%(i,b[i:i+20]))
MISSING=object()
def mt(p,v,path):
    if A.no_counts and path in ('reply.complete','reply.incomplete'): return
    if isinstance(p,dict):
        if '$absent' in p:
            if v is not MISSING: raise Fail('%s should be absent'%path)
            return
        if v is MISSING: raise Fail('%s missing'%path)
        if '$present' in p: return
        if '$hex' in p:
            if v!=bytes.fromhex(p['$hex']): raise Fail('%s=%r want %s'%(path,v,p['$hex']))
        elif '$str' in p:
            if v!=p['$str'].encode(): raise Fail('%s=%r'%(path,v))
        elif '$len' in p:
            if not isinstance(v,bytes) or len(v)!=p['$len']: raise Fail('%s=%r want %d bytes'%(path,v,p['$len']))
        elif '$int_min' in p:
            if not isinstance(v,int) or v<p['$int_min']: raise Fail('%s=%r'%(path,v))
        elif '$nonempty_string' in p:
            if not isinstance(v,bytes) or not v: raise Fail('%s=%r'%(path,v))
        elif '$list' in p:
            if not isinstance(v,list) or len(v)!=len(p['$list']): raise Fail('%s=%r'%(path,v))
            for a,b in zip(p['$list'],v): mt(a,b,path+'[]')
        elif '$dict' in p:
            if not isinstance(v,dict) or set(v)!={bytes.fromhex(k) for k in p['$dict']}: raise Fail('%s keys %r'%(path,v))
            for k,a in p['$dict'].items(): mt(a,v[bytes.fromhex(k)],path+'.'+k[:8])
        else:
            if not isinstance(v,dict): raise Fail('%s=%r'%(path,v))
            for k,a in p.items(): mt(a,v.get(k.encode(),MISSING),path+'.'+k)
    elif v!=p: raise Fail('%s=%r want %r'%(path,v if v is not MISSING else 'missing',p))
def rd(c,buf,head=False):
    while b'\r\n\r\n' not in buf:
        x=c.recv(65536)
        if not x: raise EOFError
        buf+=x
    h,buf=buf.split(b'\r\n\r\n',1); ls=h.split(b'\r\n'); m=re.match(rb'HTTP/1\.[01] (\d{3})',ls[0])
    if not m: raise Fail('status line %r'%ls[0])
    hd={l.split(b':',1)[0].lower().decode():l.split(b':',1)[1].strip() for l in ls[1:] if b':' in l}
    if head: return int(m[1]),hd,b'',buf
    if 'content-length' in hd:
        n=int(hd['content-length'])
        while len(buf)<n:
            x=c.recv(65536)
            if not x: raise Fail('body short')
            buf+=x
        return int(m[1]),hd,buf[:n],buf[n:]
    while True:
        x=c.recv(65536)
        if not x: break
        buf+=x
    return int(m[1]),hd,buf,b''
def chk_resp(e,st,hd,body):
    if 'any_of' in e:
        er=[]
        for o in e['any_of']:
            try: chk_resp(o,st,hd,body); return
            except Fail as x: er.append(str(x))
        raise Fail(' / '.join(er))
    if 'status' in e and st!=e['status']: raise Fail('status %d body %r'%(st,body[:80]))
    if 'status_in' in e and st not in e['status_in']: raise Fail('status %d body %r'%(st,body[:80]))
    if e.get('content_length') and hd.get('content-length')!=str(len(body)).encode(): raise Fail('content-length %r for %d bytes'%(hd.get('content-length'),len(body)))
    for k in e.get('header_absent',[]):
        if k in hd: raise Fail('header %s: %r'%(k,hd[k]))
    if 'bencode' in e:
        try: v,i=bdec(body)
        except (ValueError,IndexError) as x: raise Fail('not bencode: %r'%body[:80])
        if i!=len(body): raise Fail('bytes after the bencode')
        mt(e['bencode'],v,'reply')
def http_step(st,tr,top=False):
    src=st.get('from','::1' if tr=='http6' else '127.0.0.1'); e=st.get('expect')
    c=socket.socket(socket.AF_INET6 if tr=='http6' else socket.AF_INET); c.bind((src,0)); c.settimeout(4); c.connect(TGT[tr])
    try:
        raw=st['request_text'].encode('latin-1'); i=0
        try:
            for n in st.get('send_chunks',[]): c.sendall(raw[i:i+n]); i+=n; time.sleep(0.05)
            c.sendall(raw[i:])
        except OSError:
            if e and e.get('or_close'): return
        if not e: 
            try: rd(c,b'',raw.startswith(b'HEAD'))
            except (EOFError,Fail,OSError): pass
            return
        if 'closed_within' in e:
            c.settimeout(e['closed_within'])
            try:
                while c.recv(4096): pass
            except TimeoutError: raise Fail('still open after %d s'%e['closed_within'])
            return
        buf=b''
        try:
            for r in e.get('responses',[e]):
                st_,hd,body,buf=rd(c,buf,raw.startswith(b'HEAD')); chk_resp(r,st_,hd,body)
                if r.get('no_body') and buf: raise Fail('HEAD answered with a body')
                if r.get('closes'):
                    c.settimeout(2)
                    try:
                        if buf or c.recv(10): raise Fail('bytes after the response')
                    except TimeoutError: raise Fail('connection left open')
        except (EOFError,ConnectionError):
            if not e.get('or_close'): raise Fail('closed without a response')
        except TimeoutError: raise Fail('no response')
    finally: c.close()
def step(S,st,top=False):
    if 'sleep' in st: time.sleep(st['sleep']); return
    tr=st['transport']
    if tr.startswith('udp'):
        for i in range(st.get('repeat',1)):
            d=udp_step(S,st,tr,st['port_from']+i if 'port_from' in st else None)
            if st.get('expect'): chk_udp(st['expect'],d,S,tr)
    else: http_step(st,tr,top)
vec=json.load(open(A.vectors)); res={}
for v in vec:
    if A.only and A.only not in v['name']: continue
    need={v['transport']}|{s['transport'] for s in v.get('setup',[]) if 'transport' in s}
    if not need<=set(TGT) or (v.get('timing') and not A.timing): res.setdefault('SKIP',[]).append(v['name']); continue
    S=Sess()
    try:
        for s in v.get('setup',[]): step(S,s)
        step(S,v,True); r='PASS'
    except Fail as x: r='FAIL' if v['level']=='MUST' else 'WARN'; print('%-4s %-45s %-6s %s'%(r,v['name'],v.get('ref',''),str(x)[:230]))
    except (OSError,KeyError,ValueError) as x: r='FAIL'; print('FAIL %-45s %r'%(v['name'],x))
    finally: S.close()
    res.setdefault(r,[]).append(v['name'])
    if A.v and r=='PASS': print('PASS',v['name'])
print({k:len(n) for k,n in res.items()}); sys.exit(1 if res.get('FAIL') else 0)
